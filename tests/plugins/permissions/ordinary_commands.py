"""Commands as developers and their agents type them all day, and a short policy."""

from __future__ import annotations

POLICY = (
    "pytest *",
    "python -m pytest *",
    "ruff *",
    "mypy *",
    "make *",
    "npm test *",
    "npm run *",
    "npm ci",
    "npm install",
    "git add *",
    "git commit *",
    "git switch *",
    "git checkout -b *",
    "git stash *",
    "git fetch *",
    "uv run *",
    "uv sync *",
    "cargo build *",
    "cargo test *",
    "go test *",
    "go build *",
    "mkdir *",
    "touch *",
    "nox *",
)

COMMANDS = (
    *r"""
ls
ls -la
ls -la src tests
ls *.md
pwd
cat README.md
cat src/app.py | head -n 40
head -n 20 src/app.py
tail -n 50 build.log
tail -f build.log
wc -l src/*.py
wc -l src/app.py tests/test_app.py
find . -name '*.py'
find src -type f -name "*.py" -not -path "*/__pycache__/*"
find . -maxdepth 2 -type d
find . -name '*.py' | head
find . -name '*.py' | wc -l
find . -name '*.py' | sort | head -20
find src -name '*.py' | xargs wc -l
find src -name '*.py' -print0 | xargs -0 grep -n harbour
find . -type f -print0 | sort -z | xargs -0 wc -l
find . -name '*.pyc' -o -name '*.pyo'
find src -name '*.py' -exec grep -l harbour {} +
find . -newer README.md -type f
grep -rn "def main" src
grep -rn --include='*.py' 'import os' .
grep -n "harbour" src/app.py
grep -c def src/app.py
grep -A 3 -B 3 "class App" src/app.py
grep -E 'foo|bar' src/app.py
grep -rl deprecated src | sort
grep -v '^#' setup.cfg | grep -v '^$'
rg harbour
rg -n "def main" src
rg -l "import os" --type py
rg --files | head
rg -i 'error' -g '*.log' .
sed -n '1,40p' src/app.py
sed -n '10p;20p' src/app.py
sed 's/foo/bar/g' src/app.py | head
awk '{print $1}' data.txt
awk -F: '{print $1, $3}' data.txt
awk 'NR>10' data.txt
cut -d, -f1 data.csv | sort | uniq -c | sort -rn | head
sort -u names.txt
sort -k2,2n data.txt
uniq -c names.txt
tr a-z A-Z < names.txt
diff src/app.py src/old.py
diff -u a.txt b.txt
diff <(sort a.txt) <(sort b.txt)
comm -12 a.txt b.txt
stat README.md
file src/app.py
du -sh .
du -sh * | sort -h
df -h .
tree -L 2
tree -I 'node_modules|dist'
which python
type git
command -v node
echo hello
echo "done: $?"
printf '%s\n' one two
date
date +%Y-%m-%d
date -u +"%H:%M"
whoami
uname -a
nproc
sleep 1
true
test -f README.md && echo yes
[ -d src ] && ls src
[[ -f README.md ]] && cat README.md
if [ -f package.json ]; then cat package.json; else echo none; fi
for f in a.txt b.txt; do wc -l "$f"; done
for i in 1 2 3; do echo "$i"; done
for i in {1..5}; do echo $i; done
cd src && ls
cd src && pytest -q
(cd src && ls -la)
cd tests; ls
git status
git status --short
git status -sb
git log
git log --oneline -n 10
git log --oneline --graph --all
git log -p src/app.py
git log --since="2 weeks ago" --author=ada
git log main..HEAD --oneline
git log --format='%h %s' -5
git diff
git diff --stat
git diff --cached
git diff HEAD~1
git diff main...HEAD -- src
git diff --name-only
git show
git show HEAD~2
git show HEAD:src/app.py
git show --stat HEAD
git branch
git branch -a
git branch -vv
git branch --show-current
git branch --list 'feature/*'
git tag
git tag --list 'v1.*'
git remote -v
git remote get-url origin
git rev-parse HEAD
git rev-parse --show-toplevel
git rev-parse --abbrev-ref HEAD
git ls-files
git ls-files | grep test
git ls-files '*.py' | wc -l
git ls-files | xargs wc -l
git blame -L 10,20 src/app.py
git shortlog -sn
git describe --tags
git stash list
git stash
git stash pop
git reflog
git config user.name
git config --list
git config --get remote.origin.url
git worktree list
git merge-base main HEAD
git --no-pager log -3
git --no-pager diff
git -C src status
git grep -n harbour
git cat-file -p HEAD
git add .
git add -A
git add src/app.py tests/test_app.py
git add -u && git commit -m "Fix the parser"
git commit -m "Fix the parser"
git commit -am 'Add a test'
git commit --amend --no-edit
git commit -m "Add naïve search" -m "It is slow but right – for now."
git switch main
git switch -c feature/search
git checkout -b fix/parser
git fetch
git fetch origin main
git add README.md && git commit -m "Docs" && git status
pytest
pytest -q
pytest -x -vv tests/test_app.py
pytest tests/test_app.py::test_one -q
pytest -k "parser and not slow"
pytest -m 'not slow' -n auto
pytest --lf
pytest --cov=src --cov-report=term-missing
pytest -q 2>&1 | tail -n 20
pytest -q > /dev/null 2>&1; echo $?
pytest -q || true
python -m pytest -q tests
timeout 60 pytest -q
time pytest -q
CI=1 pytest -q
NO_COLOR=1 FORCE_COLOR=0 pytest
PYTHONUNBUFFERED=1 pytest -s
env CI=1 pytest -q
nice -n 10 pytest -q
uv run pytest -q
uv run ruff check .
uv sync
ruff check .
ruff check --fix src
ruff format .
ruff format --check src tests
ruff check . && ruff format --check .
mypy src
mypy --strict src tests
ruff check src && mypy src && pytest -q
make
make test
make -j8 build
make lint test
make build 2>&1 | tee /dev/null | tail -5
make clean && make
npm test
npm test -- --watch=false
npm run build
npm run lint
npm run test:unit
npm ci
npm install
npm ls
npm ls --depth=0
NODE_ENV=test npm test
cargo build
cargo build --release
cargo test
cargo test parser -- --nocapture
RUST_BACKTRACE=1 cargo test
cargo tree
go test ./...
go test -run TestParser ./pkg/parser
go build ./...
go version
python --version
node --version
pip list
pip show requests
pip freeze | grep -i django
mkdir -p src/new
mkdir -p src/{api,core,web}
touch src/new/__init__.py
nox -s tests
jq . package.json
jq -r '.scripts | keys[]' package.json
cat package.json | jq '.dependencies'
cat data.json | jq -r '.[].name' | sort
cat src/app.py | grep -n def | head
ls -1 | wc -l
ls src | grep test
xxd logo.png | head
md5sum dist.tar.gz
sha256sum dist.tar.gz
tar -tzf dist.tar.gz
tar tf dist.tar
base64 logo.png | head -c 100
ps aux | grep python
ls -la && git status && git log --oneline -5
""".strip().split("\n"),
    "git commit -m \"$(cat <<'EOF'\nFix it\n\nIt didn't close quotes.\nEOF\n)\"",
    "git add -A && git commit -m 'One\n\nTwo lines.'",
    "cat <<'EOF'\nhello\nEOF",
    "cat <<EOF | wc -l\none\ntwo\nEOF",
    "ls # what is here?",
    "git log \\\n  --oneline \\\n  -n 3",
    "ls src\nls tests",
    "grep -n main <<< 'def main'",
    'while read -r line; do echo "$line"; done < names.txt',
    'name=src/app.py; head -n 3 "$name"',
    "set -e; ls; pwd",
    "set -euo pipefail\nruff check .\npytest -q",
)
