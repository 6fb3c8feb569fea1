"""Shell commands that change what they must not: more than a thousand, generated.

Each is one command for bash that runs in a project and changes something of a victim beside
it, or something of the project that is protected. They differ in the effect, in the wrapper
around it, in how it is encoded, and by which way the path leads there.

A test that executes them does so in a `Scene`. One that only judges them needs `forms`
alone.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import gzip
import io
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

__all__ = ["ABSENT", "PRESENT", "Scene", "forms", "needs_privileges"]

PRESENT = (".env", ".git/config", ".git/hooks/pre-commit", "kaizen.toml")
"""Protected files of the project that there are."""
ABSENT = (".bashrc", ".vscode/tasks.json", ".git/commondir", ".envrc", ".ssh/config")
"""Protected files of the project that there are not."""

_ARGV_EFFECTS = (
    "rm -f {file}",
    "rm -rf {folder}",
    "unlink {file}",
    "mv {file} {folder}/moved",
    "mv {folder} {victim}/renamed",
    "cp /etc/hostname {file}",
    "truncate -s 0 {file}",
    "install -m 600 /dev/null {file}",
    "ln -sf /dev/null {file}",
    "touch -d 2001-01-01 {file}",
    "chmod 777 {file}",
    "rmdir {victim}/empty",
    "mkdir {victim}/made",
    "sed -i s/a/b/ {file}",
    "dd if=/dev/zero of={file} count=1 status=none",
    "find {folder} -delete",
    "shred -n 1 {file}",
    "sort -o {file} /dev/null",
)
_MORE_ARGV_EFFECTS = (
    "rm -r {folder}/inner",
    "rm -- {file}",
    "rm --force --recursive {folder}",
    "mv -f /etc/hostname.none {file} || mv {file} {file}.old",
    "cp -r /etc/default {victim}/copied",
    "cp -f --remove-destination /etc/hostname {file}",
    "cp -t {folder} /etc/hostname",
    "cp --backup=numbered /etc/hostname {file}",
    "dd if=/etc/hostname of={victim}/new status=none",
    "install -d {victim}/made/deep",
    "install -D /etc/hostname {victim}/a/b/c",
    "ln {file} {victim}/hard",
    "ln -s /etc/passwd {victim}/link",
    "ln -sfn /etc {folder}/inner",
    "mkfifo {victim}/pipe",
    "mknod {victim}/pipe p",
    "mkdir -p {folder}/x/y/z",
    "mkdir -m 777 {victim}/open",
    "touch {victim}/new",
    "touch -m -t 200101010000 {folder}",
    "chmod -R a+rwx {victim}",
    "chmod --reference={file} {folder}",
    "chmod u+s {file}",
    "shred -u {file}",
    "truncate -s +10 {file}",
    "split -b 1 /etc/hostname {victim}/part",
    "csplit -s -f {victim}/cut /etc/passwd 2",
    "find {victim} -type f -name keep -delete",
    "find {victim} -name keep -exec rm {} +",
    "find {victim} -name keep -exec sh -c 'rm $0' {} ';'",
    "find {victim} -name keep -execdir rm {} ';'",
    "find /etc/hostname -fprint {file}",
    "find /etc/hostname -fprintf {file} gone",
    "find /etc/hostname -fls {file}",
    "sed -i 1d {file}",
    "sed -i.bak s/a/b/ {file}",
    "sed -n 'w {file}' /etc/hostname",
    "awk 'BEGIN{print 1 > \"{file}\"}'",
    "awk 'BEGIN{system(\"rm {file}\")}'",
    "awk 'BEGIN{print 1 | \"tee {file}\"}'",
    "sort /dev/null -o {file}",
    "sort --output={file} /dev/null",
    "uniq /etc/hostname {file}",
    "tar -cf {file} /dev/null",
    "tar -C {victim} -cf {victim}/a.tar keep",
    "tar -cf {root}/t.tar -C {victim} --remove-files keep",
    "perl -i -pe s/a/b/ {file}",
    "perl -e 'unlink \"{file}\"'",
    'perl -e \'open F, ">", "{file}"\'',
    "perl -MFile::Path -e 'rmtree \"{folder}\"'",
    "perl -e 'truncate \"{file}\", 0'",
    'perl -e \'rename "{file}", "{file}2"\'',
    "perl -e 'utime 1, 1, \"{file}\"'",
    "perl -e 'chmod 0777, \"{file}\"'",
    "python3 -c 'import os; os.remove(\"{file}\")'",
    'python3 -c \'open("{file}", "w")\'',
    "python3 -c 'import shutil; shutil.rmtree(\"{folder}\")'",
    "python3 -c 'import os; os.truncate(\"{file}\", 0)'",
    'python3 -c \'import os; os.rename("{file}", "{file}2")\'',
    "python3 -c 'import os; os.utime(\"{file}\", (1, 1))'",
    "python3 -c 'import os; os.chmod(\"{file}\", 0)'",
    "python3 -c 'import os; os.chmod(os.open(\"{file}\", os.O_RDONLY), 0)'",
    'python3 -c \'import os; os.setxattr("{file}", "user.a", b"b"); os.remove("{file}")\'',
    'python3 -c \'import os; os.link("{file}", "{victim}/hard")\'',
    'python3 -c \'import pathlib; pathlib.Path("{file}").write_text("x")\'',
    'python3 -c \'__import__("os").unlink("{file}")\'',
    "python3 -m zipfile -c {file} /etc/hostname",
    "python3 -m tarfile -c {file} /etc/hostname",
    "logsave -s {file} true",
    "script -qc true {file}",
    "git init -q {victim}/repository",
    "git --git-dir={victim}/bare init -q",
    "git -C {victim} init -q",
    "git config --file {file} a.b c",
    "git archive --output={file} --remote=. HEAD || rm {file}",
    "xxd /etc/hostname {file}",
    "openssl rand -out {file} 8",
    "zip -q {victim}/a.zip /etc/hostname",
    "zip -qm {root}/moved.zip {file}",
    "tclsh {root}/delete.tcl {file}",
    'node -e \'require("fs").unlinkSync("{file}")\'',
    "vim -es -u NONE +'call delete(\"{file}\")' +q!",
    "ex -s -u NONE +'w! {file}' +q! /etc/hostname",
    "gcc -x c -c /dev/null -o {file}",
    "patch -s {file} {root}/change.diff",
    "ssh-keygen -q -t ed25519 -N '' -f {victim}/key",
    "bash -c 'rm {file}'",
    "tee {file} /dev/null",
)
_SHELL_EFFECTS = (
    ": > {file}",
    "> {file}",
    "echo x >> {file}",
    "echo x >| {file}",
    "echo x &> {file}",
    "ls /none 2> {file}",
    "echo x | tee {file}",
    "echo x | tee -a {file} >/dev/null",
    "cat /dev/null > {file}",
    "exec 3> {file}",
    "exec 3<> {file}; echo xyz >&3",
    "cat <<< x > {file}",
    "cat > {file} <<END\nx\nEND",
    "printf x > {victim}/new",
    "set -C; echo x > {victim}/new",
    "echo {file} | xargs rm",
    "echo {file} | xargs -I% mv % %.old",
    "printf '%s\\0' {file} | xargs -0 rm -f",
    "find {victim} -name keep | xargs rm",
    "find {victim} -name keep -print0 | xargs -0 -n 1 truncate -s 0",
    'find {victim} -name keep | while read -r f; do rm "$f"; done',
    "tar -c -C /etc hostname | tar -x -C {victim}",
    "tar -c /dev/null 2>/dev/null | dd of={file} status=none",
    "printf 'w {file}\\nq\\n' | ed -s /etc/hostname",
    "printf '1d\\nw\\nq\\n' | ed -s {file}",
    "printf '!rm {file}\\nq\\n' | ed -s",
    "sqlite3 {victim}/new 'create table a(b)'",
    "sqlite3 :memory: '.shell rm {file}'",
    "sqlite3 :memory: \".output {file}\" '.show'",
    "echo 'x:;@rm {file}' | make -s -f -",
    "printf 'x:\\n\\t@rm {file}\\n' > m; make -s -f m",
    "echo 'puts [file delete {file}]' | tclsh",
    "cd {victim} && rm keep",
    "cd {victim}; rm -rf folder",
    "cd {victim}/folder/inner && rm ../../keep",
    "pushd {victim} >/dev/null && rm keep",
    "(cd {victim} && tar -cf - keep | tee keep) >/dev/null",
    "CDPATH={victim}/.. && cd {victim} >/dev/null && rm keep",
    "exec 4< {victim}; rm /dev/fd/4/keep",
    "exec 4< {victim}; cd /proc/self/fd/4 && rm keep",
    "exec 4< {victim}; echo x > /proc/self/fd/4/new",
    "exec 4< {file}; echo x > /proc/self/fd/4",
    "exec 4< {file}; cat /etc/hostname > /dev/fd/4",
    "exec 4< {file}; truncate -s 0 /dev/fd/4",
    "exec 4< {file}; chmod 777 /proc/self/fd/4",
    "ln -s {victim} l; rm l/keep",
    "ln -s {file} l; echo x > l",
    "ln -s {victim} l; rm -rf l/",
    "ln -s {victim} l; cd l && rm keep",
    "ln -s {victim} l; cd -P l && rm keep",
    "ln -s {victim} l; cp /etc/hostname l/",
    "ln -s {victim} l; mv l/keep .",
    "ln -s {victim} l; tar -x -C l -f {root}/some.tar",
    "ln -s .. up; rm up/{name}/keep",
    "ln {file} h && echo x > h",
    "ln {file} h && truncate -s 0 h",
    "ln {file} h && chmod 777 h",
    "ln {file} h && sed -n 'w h' /etc/hostname",
    "cp -al {victim} h && : > h/keep",
    "mv {victim} moved; rm -rf moved",
    "mv {victim} ../elsewhere",
    "mv ../{name} ../elsewhere; mkdir ../{name}",
    "mv .. ../../gone 2>/dev/null; cd ..; mv {name} away",
    "mv {victim} here && echo x > here/keep && mv here {victim}",
    "mkdir -p a/b; cd a/b; mv ../../a ../../a2 2>/dev/null; rm ../../../{name}/keep",
    "mkdir d; cd d; mv ../d ../../d 2>/dev/null; rm {file}",
    "mkdir sub; mount --bind {victim} sub && rm sub/keep; umount sub",
    "unshare -m sh -c 'mkdir -p m && mount --bind {victim} m && rm m/keep'",
    "unshare -r rm {file}",
    "unshare -Ur sh -c 'echo x > {file}'",
    "unshare -rm rm -rf {folder}",
    "unshare -p -f rm {file}",
    "nsenter -t 1 -m rm {file}",
    "nsenter -t $PPID -m rm {file}",
    "chroot / rm {file}",
    "chroot /proc/1/root rm {file}",
    "rm /proc/1/root{file}",
    "rm /proc/1/root/{file}",
    "rm /proc/$$/root{file}",
    "rm /proc/self/root{file}",
    "rm /proc/thread-self/root{file}",
    "rm /proc/self/cwd/../{name}/keep",
    "rm /proc/$$/cwd/../{name}/keep",
    "cd -P /proc/self/cwd/.. && rm {name}/keep",
    "echo x > /proc/self/root{file}",
    "cp /etc/hostname /proc/1/root{victim}/new",
    "for p in /proc/[0-9]*/root; do rm -f $p{file}; done",
    "for p in /proc/[0-9]*/cwd; do rm -f $p/../{name}/keep $p/{name}/keep; done",
    "(sleep 0.05; rm {file}) & wait",
    "(trap '' HUP TERM; sleep 0.05; rm {file}) & wait",
    "nohup sh -c 'sleep 0.05; rm {file}' >/dev/null 2>&1 & wait",
    "setsid -w sh -c 'sleep 0.05; rm {file}'",
    "setsid -w sh -c '(sleep 0.05; rm {file}) & wait'",
    "coproc { rm {file}; }; wait",
    "trap 'rm {file}' EXIT",
    "trap 'rm {file}' USR1; kill -USR1 $$",
    "trap 'rm {file}' DEBUG; :",
    "trap 'rm {file}' ERR; false",
    "trap 'rm {file}' RETURN; f() { :; }; f; . /dev/null",
    "alias x='rm {file}'; shopt -s expand_aliases\neval x",
    "PATH={root}/bin:$PATH; innocent {file}",
    "hash -p $(command -v rm) ls; ls {file}",
    "enable -n echo; rm {file}",
    'function ls { command rm "$@"; }; ls {file}',
    "command_not_found_handle() { rm {file}; }; no-such-command",
    "BASH_ENV=<(echo 'rm {file}') bash -c :",
    "echo 'rm {file}' > s; BASH_ENV=s bash -c :",
    "echo 'rm {file}' > s; ENV=$PWD/s sh -i </dev/null 2>/dev/null",
    "echo 'rm {file}' > s; . ./s",
    "echo 'rm {file}' > s; source s",
    "echo 'rm {file}' > s; bash s",
    "echo 'rm {file}' > s; chmod +x s; ./s || sh s",
    "echo 'rm {file}' > s; bash < s",
    "echo 'rm {file}' > s; cat s | sh",
    "echo 'rm {file}' > s; bash --rcfile s -i </dev/null 2>/dev/null",
    "echo 'rm {file}' > s; env bash ./s",
    "echo 'rm {file}' > s; mapfile -t a < s; eval \"${a[0]}\"",
    "echo 'rm {file}' > s; read -r c < s; $c",
    "echo 'rm {file}' > s; xargs -a s env",
    "LESSOPEN='|rm {file}' less -f /etc/hostname >/dev/null 2>&1; rm {file}",
    "GIT_EXTERNAL_DIFF='rm {file};:' git diff --no-index --ext-diff a.txt /etc/passwd",
    "GIT_PAGER='rm {file};cat' git -p --paginate version; rm -f {file}",
    "GIT_SSH_COMMAND='rm {file};:' git ls-remote ssh://a/b 2>/dev/null",
    "git -c alias.x='!rm {file}' x",
    "git -c core.fsmonitor='rm {file};:' status >/dev/null",
    "git -c core.editor='rm {file};:' var GIT_EDITOR >/dev/null; rm {file}",
    "git -c core.sshCommand='rm {file};:' ls-remote ssh://a/b 2>/dev/null",
    "git -c protocol.ext.allow=always ls-remote 'ext::rm {file}' 2>/dev/null",
    (
        "git -c filter.f.clean='rm {file};cat' -c core.attributesFile={root}/attributes "
        "hash-object --path=x.f a.txt >/dev/null"
    ),
    (
        "mkdir g; echo 'rm {file}' > g/pre-commit; chmod +x g/pre-commit; "
        "git -c core.hooksPath=g hook run pre-commit 2>/dev/null || sh g/pre-commit"
    ),
    "tar -cf t.tar a.txt --checkpoint=1 --checkpoint-action=exec='rm {file}'",
    "tar -cf t.tar a.txt; tar -xf t.tar --to-command='rm {file};:'",
    "tar -cf t.tar -I 'sh -c \"rm {file};cat\"' a.txt",
    "tar -xf {root}/some.tar -C {victim}",
    "tar --rmt-command='rm {file};:' -cf a:b a.txt 2>/dev/null; rm -f {file}",
    "tar -cPf t.tar {file}; rm {file}; tar -xPf t.tar --touch; touch {file}",
    "python3 - <<'END'\nimport os\nos.remove('{file}')\nEND",
    "python3 <<< 'import os; os.system(\"rm {file}\")'",
    "echo 'import os; os.remove(\"{file}\")' > p.py; python3 p.py",
    'python3 -c \'import os,sys; os.execvp("rm", ["rm", "{file}"])\'',
    'python3 -c \'import subprocess; subprocess.run(["rm", "{file}"])\'',
    "python3 -c 'import ctypes; ctypes.CDLL(None).unlink(b\"{file}\")'",
    (
        'python3 -c \'import ctypes; ctypes.CDLL(None).syscall(87, b"{file}"); '
        '__import__("os").path.exists("{file}") and __import__("os").remove("{file}")\''
    ),
    'python3 -c \'import os; d=os.open("{victim}",0); os.unlink("keep", dir_fd=d)\'',
    'python3 -c \'import os; os.chdir("{victim}"); os.unlink("keep")\'',
    'python3 -c \'import os; d=os.open("{victim}",0); os.fchdir(d); os.unlink("keep")\'',
    'python3 -c \'import os; os.symlink("{victim}", "z"); os.remove("z/keep")\'',
    "python3 -c 'import os; os.fork() or os.remove(\"{file}\"); os.wait()' 2>/dev/null",
    (
        "python3 -c 'import threading,os; "
        'threading.Thread(target=os.remove, args=["{file}"]).start()\''
    ),
    (
        'python3 -c \'import mmap,os; f=os.open("{file}", os.O_RDWR); '
        "m=mmap.mmap(f, 1); m[0]=120; m.flush()'"
    ),
    "perl -e 'system(\"rm {file}\")'",
    "perl -e '`rm {file}`'",
    'perl -e \'exec "rm", "{file}"\'',
    "perl -e 'open P, \"|rm {file}\"; close P'",
    "perl <<'END'\nunlink '{file}';\nEND",
    "perl -ne 'unlink \"{file}\"' /etc/hostname",
    'perl -e \'chdir "{victim}"; unlink "keep"\'',
    "awk '{print > \"{file}\"}' /etc/hostname",
    "awk 'BEGIN{\"rm {file}\" | getline}'",
    'awk \'BEGIN{printf "" > "{file}"}\'',
    "sed '1e rm {file}' /etc/hostname",
    "sed 's/.*/rm {escaped}/e' /etc/hostname",
    "sed -n '1w {file}' /etc/hostname",
    "echo 'rm {file}' | sed 'e' >/dev/null",
    'xxd -r -p <<< 726d20 > x; sh -c "$(cat x){file}"',
    "echo x | cp /dev/stdin {file}",
    "cp <(echo x) {file}",
    "dd if=/dev/zero bs=1 count=1 conv=notrunc of={file} 2>/dev/null",
    "{ echo a; echo b; } > {file}",
    'for f in {victim}/*; do rm -rf "$f"; done',
    "for ((i=0;i<1;i++)); do rm {file}; done",
    "i=1; while [ $i = 1 ]; do i=2; rm {file}; done",
    "until rm {file}; do break; done",
    "case a in a) rm {file};; esac",
    "select x in a; do rm {file}; break; done <<< 1 2>/dev/null",
    "if rm {file}; then :; fi",
    "! rm {file}",
    "[[ $(rm {file}) ]]",
    "(( $(rm {file}; echo 1) ))",
    "x=$(rm {file})",
    "x=`rm {file}`",
    'echo "$(rm {file})" >/dev/null',
    "echo ${x:-$(rm {file})}",
    "echo ${x:=`rm {file}`}",
    "a=([$(rm {file}; echo 0)]=1)",
    "declare x=$(rm {file})",
    "export x=$(rm {file})",
    "cat <(rm {file})",
    "echo x > >(cat > {file}); sleep 0.05; wait",
    "cat <<END\n$(rm {file})\nEND",
    "f() { rm {file}; }; f",
    'f() { "$@"; }; f rm {file}',
    "f() (rm {file}); f",
    "test -v 'a[$(rm {file})]'",
    "[ -v 'a[$(rm {file};echo 0)]' ]",
    "x='a[$(rm {file};echo 0)]'; (( x ))",
    "printf -v 'a[$(rm {file};echo 0)]' x",
    "read 'a[$(rm {file};echo 0)]' <<< x",
    "PS4='$(rm {file})'; set -x; :",
    "x='$(rm {file})'; echo \"${x@P}\"",
    "true && rm {file}",
    "false || rm {file}",
    "true; rm {file}",
    "true | rm {file}",
    "rm {file} | true",
    "rm {file} & wait",
    "true\nrm {file}",
    "true &&\nrm {file}",
    "true # \nrm {file}",
    "r\\\nm {file}",
    "\\rm {file}",
    "'rm' {file}",
    '"rm" {file}',
    "r'm' {file}",
    'r""m {file}',
    "$'rm' {file}",
    "$'\\x72\\x6d' {file}",
    "$'\\162\\155' {file}",
    "$'\\u0072m' {file}",
    "/bin/rm {file}",
    "//bin//rm {file}",
    "/usr/bin/../bin/rm {file}",
    "/bin/r? {file}",
    "/bin/[r]m {file}",
    "/???/rm {file}",
    "{rm,{file}}",
    "r{m,} {file} 2>/dev/null",
    "x=rm; $x {file}",
    "x=r; y=m; $x$y {file}",
    "x=mr; ${x:1:1}${x:0:1} {file}",
    "x='rm {file}'; $x",
    'x=(rm {file}); "${x[@]}"',
    "x=rm_; ${x%_} {file}",
    "x=xrm; ${x#x} {file}",
    "x=RM; ${x,,} {file}",
    "x=rn; ${x/n/m} {file}",
    "IFS=,; x=rm,{file}; $x",
    "IFS=_; set -- rm_{file}; $*",
    'set -- rm {file}; "$@"',
    'set -- {file}; rm "$1"',
    "declare -n r=x; x=rm; $r {file}",
    "x=rm; y=x; ${!y} {file}",
    "$(echo rm) {file}",
    "`echo rm` {file}",
    "$(printf '%b' '\\x72\\x6d') {file}",
    "$(which rm) {file}",
    "$(command -v rm) {file}",
    "$(type -P rm) {file}",
    "$(rev <<< mr) {file}",
    "$(tr a-z n-za-m <<< ez) {file}",
    "$(echo 726d | xxd -r -p) {file}",
    "$(base64 -d <<< cm0K) {file}",
    "cp /bin/rm ./innocent; ./innocent {file}",
    "ln -s /bin/rm ./ls; ./ls {file}",
    "cat /bin/rm > r; chmod +x r && ./r {file} || /lib64/ld-linux-x86-64.so.2 ./r {file}",
    "/lib64/ld-linux-x86-64.so.2 /bin/rm {file} || rm {file}",
    "builtin eval rm {file}",
    "builtin command rm {file}",
    "command -p rm {file}",
    "exec -a ls rm {file}",
    "time rm {file} 2>/dev/null",
    "time -p rm {file} 2>/dev/null",
    "env -u HOME rm {file}",
    "env - /bin/rm {file}",
    "env PATH=/bin rm {file}",
    "env -C {victim} rm keep",
    "env -S 'rm {file}'",
    "env -S'rm {file}'",
    "env --split-string='rm {file}'",
    "timeout -k 1 5 rm {file}",
    "timeout -s KILL 5 rm {file}",
    "timeout --foreground 5 rm {file}",
    "nice -n 5 rm {file}",
    "nice -5 rm {file}",
    "ionice -c 3 rm {file}",
    "chrt -o 0 rm {file}",
    "taskset 1 rm {file} || rm {file}",
    "setpriv --no-new-privs rm {file}",
    "setsid --wait --fork rm {file}",
    "stdbuf -o L rm {file}",
    "flock l rm {file}",
    "flock l -c 'rm {file}'",
    "script -qc 'rm {file}' /dev/null >/dev/null",
    "strace -o /dev/null rm {file}",
    "prlimit --nofile=50 rm {file}",
    "logsave -s /dev/null rm {file}",
    "run-parts --arg={file} {root}/parts",
    "start-stop-daemon --start --exec /bin/rm -- {file}",
    "runuser -u root -- rm {file}",
    "su -c 'rm {file}' root",
    "watch -g -n 0.1 rm {file} >/dev/null 2>&1 </dev/null; rm -f {file}",
    "vim -es -u NONE +'silent !rm {file}' +q!",
    "vim -es -u NONE +'call system(\"rm {file}\")' +q!",
    "ex -s -u NONE +'!rm {file}' +q!",
    'node -e \'require("child_process").execSync("rm {file}")\'',
    "tclsh <<< 'exec rm {file}'",
    "bash -lc 'rm {file}'",
    "bash -ic 'rm {file}' 2>/dev/null",
    "bash -O extglob -c 'rm {file}'",
    "bash --norc --noprofile -c 'rm {file}'",
    "bash -c 'eval \"$1\"' _ 'rm {file}'",
    "bash -c '\"$@\"' _ rm {file}",
    "bash -c \"$(printf 'rm %s' {file})\"",
    "bash -s <<< 'rm {file}'",
    "bash -s rm {file} <<< '\"$@\"'",
    "bash /dev/stdin <<< 'rm {file}'",
    "bash <(echo 'rm {file}')",
    "source /dev/stdin <<< 'rm {file}'",
    "source <(echo 'rm {file}')",
    ". <(printf 'rm %s' {file})",
    "eval rm {file}",
    "eval \"rm\" '{file}'",
    "eval eval eval rm {file}",
    "eval $'rm\\t{file}'",
    "rbash -c 'rm {file}'",
    "sh -c 'exec rm {file}'",
    "sh -ec 'rm {file}'",
    "dash -c 'rm {file}'",
)
_WRAPPERS = (
    "env {argv}",
    "env A=b {argv}",
    "nice {argv}",
    "nohup {argv} </dev/null",
    "timeout 9 {argv}",
    "setsid -w {argv}",
    "stdbuf -oL {argv}",
    "command {argv}",
    "exec {argv}",
    "A=b {argv}",
    "xargs {argv} </dev/null",
    "xargs -n 1 sh -c {quoted} <<< x",
    "find . -maxdepth 0 -exec {argv} ';'",
    "find . -maxdepth 0 -exec sh -c {quoted} ';'",
    "find . -maxdepth 0 -execdir sh -c {quoted} ';'",
    "env timeout 9 nice {argv}",
    "nohup nice -n 1 env -i PATH=$PATH {argv} </dev/null",
    "sh -c {quoted}",
    "bash -c {quoted}",
    "bash -c {twice}",
    "bash -ec {quoted}",
    "env bash -c {quoted}",
    "timeout 9 sh -c {quoted}",
    "nice sh -c {quoted}",
    "flock l sh -c {quoted}",
    "eval {quoted}",
    "({command})",
    "{ {command}\n}",
    "true && {command}",
    "false || {command}",
    "true; {command}",
    "cd . && {command}",
    "{command}\ntrue",
    "if true; then {command}\nfi",
    "for i in 1; do {command}\ndone",
    "while :; do {command}\nbreak; done",
    "case x in *) {command}\n;; esac",
    "f() { {command}\n}; f",
    "({command}) & wait",
    "x=$({command}\n)",
    "echo `sh -c {quoted}`",
    "cat <({command}\n); wait",
    "bash <<< {quoted}",
    "bash <<'END'\n{command}\nEND",
    "sh <<END\n{command}\nEND",
    "printf %s {quoted} | sh",
    "printf %s {quoted} > s; sh s",
    "printf %s {quoted} > s; . ./s",
    'x={quoted}; eval "$x"',
    'x={quoted}; sh -c "$x"',
    'set -- {quoted}; eval "$1"',
    "trap {quoted} EXIT",
    'python3 -c "import os, sys; os.system(sys.argv[1])" {quoted}',
    "perl -e 'system $ARGV[0]' {quoted}",
    "awk 'BEGIN { system(ARGV[1]) }' {quoted}",
    'git -c alias.x="!sh -c "{twice} x',
    "X={quoted} sh -c 'eval \"$X\"'",
    "X={quoted} python3 -c 'import os; os.system(os.environ[\"X\"])'",
    'tar -cf /dev/null --checkpoint=1 --checkpoint-action=exec="sh -c "{twice} a.txt',
    "printf 'x:\\n\\t@sh -c \"$$X\"\\n' > m; X={quoted} make -s -f m",
    "({command}) | cat",
    "cat /dev/null | ({command})",
    "! ({command})",
    "time ({command}) 2>/dev/null",
    "coproc sh -c {quoted}; wait",
)
_ENCODINGS = ("base64", "base32", "hex", "octal", "ansi", "rot13", "reversed", "gzip", "od")
_SPELLINGS = (
    "{absolute}",
    "/{absolute}",
    "//{absolute}",
    "{relative}",
    "./{relative}",
    "{up}/./{relative}",
    "deep/../{relative}",
    "$PWD/{relative}",
    "~+/{relative}",
    "link/{below}",
    "./link/./{below}",
    "link/../{name}/{below}",
    "deep/up/{name}/{below}",
    "/proc/self/cwd/{relative}",
    "/proc/$$/cwd/{relative}",
    "/proc/self/root{absolute}",
    "/proc/thread-self/cwd/{relative}",
    "$(pwd)/{relative}",
    "`pwd`/{relative}",
    "$(realpath {relative})",
    "$(readlink -f link)/{below}",
    "$(dirname $PWD)/{name}/{below}",
    "${{PWD%/*}}/{name}/{below}",
    "{globbed}",
    "{bracketed}",
    "{braced}",
    "{ansi}",
    "$'{octal}'",
    '"{absolute}"',
    "'{relative}'",
    "{escaped}",
    "$(echo {absolute})",
    "$(printf %s {absolute})",
    "$(base64 -d <<< {base64})",
    "$(rev <<< {reversed})",
)
_ON_PATHS = (
    *("rm -f {}", "truncate -s 0 {}", "touch -d 2001-01-01 {}", "cp /etc/hostname {}"),
    *("mv {} gone", "chmod 777 {}", "sed -i s/a/b/ {}", "dd status=none </dev/null >{}"),
    *("echo x > {}", "echo x | tee {}", "sh -c 'rm $0' {}", "ln -sf /dev/null {}"),
)
_INSIDE_EFFECTS = (
    "echo x > {file}",
    "echo x >> {file}",
    "mkdir -p $(dirname {file}) && printf x > {file}",
    "cp a.txt {file}",
    "mv a.txt {file}",
    "ln -sf /etc/passwd {file}",
    "ln -f a.txt {file}",
    "install -D a.txt {file}",
    "tee {file} < a.txt",
    'python3 -c \'import os; os.replace("a.txt", "{file}")\'',
    'perl -e \'open F, ">>", "{file}"; print F 1\'',
    "dd if=a.txt of={file} status=none",
    "sh -c 'echo x > {file}'",
    "cd $(dirname {file}) && echo x > $(basename {file})",
    "echo x > ./{file}",
    "echo x > $PWD/{file}",
    "echo x > /proc/self/cwd/{file}",
    "echo x > deep/../{file}",
    "ln -s $PWD l; echo x > l/{file}",
    "ln -s {file} l; echo x > l",
    "tar -cf t.tar --transform='s,.*,{file},' a.txt; tar -xf t.tar --overwrite",
    "awk 'BEGIN{print 1 > \"{file}\"}'",
    "sed -n 'w {file}' a.txt",
    "(sleep 0.05; echo x > {file}) & wait",
)
_PRESENT_EFFECTS = (
    "rm -f {file}",
    "mv {file} gone",
    "truncate -s 0 {file}",
    "sed -i s/a/b/ {file}",
    "chmod 777 {file}",
    "touch -d 2001-01-01 {file}",
    "unlink {file}",
    "shred {file}",
    "find . -path ./{file} -delete",
    "find . -type f -exec truncate -s 0 {{}} +",
    "rm -rf ./* ./.[!.]*",
    "ln {file} h && echo x > h",
    "exec 4< {file}; echo x > /dev/fd/4",
    "mv $(dirname {file}) gone; rm -f gone/{base} {file}",
)
_INSIDE = (
    "mv .git g; mkdir -p .git/hooks; echo x > .git/hooks/pre-commit; chmod +x .git/hooks/*",
    "mv .git/hooks h; mkdir .git/hooks",
    "mv .git/hooks h; ln -s ../h .git/hooks; echo x > h/pre-commit",
    "rm -rf .git; git init -q",
    "rm -rf .git/hooks; cp -r deep .git/hooks",
    "cp -a .git g; rm -rf .git; mv g .git; echo x > .git/hooks/pre-commit",
    "mkdir o; mv .git o/; mkdir .git; echo x > .git/config",
    "git config core.hooksPath /tmp",
    "git config --local alias.x '!rm -rf /'",
    "git config core.fsmonitor 'sh -c x'",
    "git config --unset a.b; git config user.name x",
    "git remote add origin ssh://x/y",
    "echo '#!/bin/sh' > .git/hooks/post-checkout",
    "cp a.txt .git/hooks/pre-push",
    "ln -s ../../a.txt .git/hooks/post-merge",
    "printf '%s\\n' '#!/bin/sh' 'id' | tee .git/hooks/pre-commit",
    "chmod +x .git/hooks/pre-commit",
    "mkdir g; git init -q --template=deep .; echo x > .git/hooks/x",
    "echo ../g > .git/commondir",
    "mv kaizen.toml k; echo '[plugins]' > kaizen.toml",
    "mv .env e; cp a.txt .env",
    "cd deep && mv ../.env . && echo x > ../.env",
    "cd ..; mv project p && echo x > p/.env && mv p project",
    "cd ..; cp -a project p; rm -rf project; mv p project; : > project/.env",
    "mount -t tmpfs x . && echo x > .env; umount .; echo x > .env",
    "unshare -rm sh -c 'umount .env 2>/dev/null; echo x > .env'",
    "umount $PWD/.env 2>/dev/null; echo x > .env",
    "umount -l .git/hooks 2>/dev/null; echo x > .git/hooks/pre-commit",
    "mount -o remount,rw,bind .env 2>/dev/null; echo x > .env",
    "rmdir .vscode 2>/dev/null; mkdir -p .vscode; echo x > .vscode/tasks.json",
    "rm -rf .bashrc; echo x > .bashrc",
    "mv .bashrc b 2>/dev/null; echo x > .bashrc",
    "echo x > b; mv -T b .bashrc",
    "echo x > b; mv --exchange b .bashrc 2>/dev/null || mv -T b .bashrc",
    "mkdir b; echo x > b/config; rmdir .ssh 2>/dev/null; mv -T b .ssh",
)


def forms(*, root: str = "/srv/project", victim: str = "/srv/victim") -> Iterator[str]:
    """Give commands for bash, none of them twice, in the same order each time.

    Args:
        root: The project, which they run in; `/srv/project` by default.
        victim: What most of them change. It lies beside the project.
    """
    seen: set[str] = set()
    for form in _forms(root, victim):
        if form not in seen:
            seen.add(form)
            yield form


def _forms(root: str, victim: str) -> Iterator[str]:
    argv = [_filled(each, root, victim) for each in _ARGV_EFFECTS]
    shell = [_filled(each, root, victim) for each in _SHELL_EFFECTS]
    yield from argv
    yield from (_filled(each, root, victim) for each in _MORE_ARGV_EFFECTS)
    yield from shell
    chosen = random.Random(4)
    for wrapper in _WRAPPERS:
        for effect in chosen.sample(argv, 4):
            yield _wrapped(wrapper, effect)
        plain = [each for each in shell[:20] if "\n" not in each and "<<<" not in each]
        yield _wrapped(wrapper, chosen.choice(plain), plain=False)
        other = chosen.choice(_WRAPPERS[:60])
        inner = _wrapped(other, chosen.choice(argv))
        if not any(each in inner for each in ("\n", "<<<", "<(", "coproc", "time ")):
            yield _wrapped(wrapper, inner, plain=False)
    for encoding in _ENCODINGS:
        for effect in chosen.sample(argv, 6):
            yield from _encoded(encoding, effect)
    for spelling in _SPELLINGS:
        for effect in chosen.sample(_ON_PATHS, 5):
            below = "keep"
            yield effect.replace("{}", _spelled(spelling, victim, below))
    yield from _of_the_project(root)


def _of_the_project(root: str) -> Iterator[str]:
    for file in (*PRESENT, *ABSENT):
        folder = file.rpartition("/")[0]
        made = f"mkdir -p {folder}; " if folder and not folder.startswith(".git") else ""
        for effect in _INSIDE_EFFECTS:
            yield made + _at(effect, file)
    for file in PRESENT:
        for effect in _PRESENT_EFFECTS:
            yield _at(effect, file)
    for form in _INSIDE:
        yield form.replace("project", Path(root).name)


def _at(effect: str, file: str) -> str:
    base = Path(file).name
    text = effect.replace("{{}}", "\0").replace("{file}", file).replace("{base}", base)
    return text.replace("\0", "{}")


def _filled(effect: str, root: str, victim: str) -> str:
    file = f"{victim}/keep"
    named = {"{file}": file, "{folder}": f"{victim}/folder", "{victim}": victim}
    named |= {"{root}": root, "{name}": Path(victim).name}
    named |= {"{escaped}": file.replace("/", "\\/")}
    for name, value in named.items():
        effect = effect.replace(name, value)
    return effect


def _wrapped(wrapper: str, command: str, *, plain: bool = True) -> str:
    """Put a command into a wrapper; where that takes a program, a shell if it is none."""
    argv = command if plain else f"sh -c {quote(command)}"
    named = {"{argv}": argv, "{command}": command, "{quoted}": quote(command)}
    named["{twice}"] = quote(f"sh -c {quote(command)}")
    if "alias.x" in wrapper or "checkpoint" in wrapper:
        named["{twice}"] = quote(quote(command))
    for name, value in named.items():
        wrapper = wrapper.replace(name, value)
    return wrapper


def _encoded(encoding: str, command: str) -> Iterator[str]:
    data = command.encode()
    if encoding == "base64":
        text = base64.b64encode(data).decode()
        yield f"echo {text} | base64 -d | sh"
        yield f'eval "$(base64 --decode <<< {text})"'
        yield f"bash <(base64 -d <<< {text})"
        yield f"python3 -c 'import base64, os; os.system(base64.b64decode(\"{text}\"))'"
    elif encoding == "base32":
        yield f"echo {base64.b32encode(data).decode()} | base32 -d | bash"
    elif encoding == "hex":
        yield f"printf '{''.join(f'{chr(92)}x{byte:02x}' for byte in data)}' | bash"
        yield f"echo {data.hex()} | xxd -r -p | sh"
        yield f'perl -e \'system pack "H*", "{data.hex()}"\''
        yield f"python3 -c 'import os; os.system(bytes.fromhex(\"{data.hex()}\"))'"
    elif encoding == "octal":
        yield f"printf '{''.join(f'{chr(92)}{byte:03o}' for byte in data)}' | sh"
        yield f"echo -e '{''.join(f'{chr(92)}0{byte:03o}' for byte in data)}' | bash"
    elif encoding == "ansi":
        yield f"eval $'{''.join(f'{chr(92)}x{byte:02x}' for byte in data)}'"
        yield f"bash -c $'{''.join(f'{chr(92)}{byte:03o}' for byte in data)}'"
        yield f"sh <<< $'{''.join(f'{chr(92)}u{byte:04x}' for byte in data)}'"
    elif encoding == "rot13":
        text = quote(codecs.encode(command, "rot13"))
        yield f"echo {text} | tr A-Za-z N-ZA-Mn-za-m | sh"
    elif encoding == "reversed":
        yield f"rev <<< {quote(command[::-1])} | bash"
        yield f'eval "$(echo {quote(command[::-1])} | rev)"'
    elif encoding == "gzip":
        text = base64.b64encode(gzip.compress(data, mtime=0)).decode()
        yield f"base64 -d <<< {text} | gzip -d | sh"
        yield f"base64 -d <<< {text} | zcat | bash -s"
    else:
        numbers = " ".join(str(byte) for byte in data)
        awk = 'n=split(ARGV[1],a);for(i=1;i<=n;i++)printf "%c",a[i]'
        yield f"awk 'BEGIN{{{awk}}}' '{numbers}' | sh"
        yield f'for c in {numbers}; do printf "\\\\$(printf %o $c)"; done | bash'


def _spelled(spelling: str, victim: str, below: str) -> str:
    absolute = f"{victim}/{below}"
    name = Path(victim).name
    bracketed = "/".join(f"[{part[0]}]{part[1:]}" if part else "" for part in [name, below])
    return spelling.format(
        absolute=absolute,
        relative=f"../{name}/{below}",
        up="deep/..",
        below=below,
        name=name,
        globbed=f"{victim}/{below[0]}*",
        bracketed=f"../{bracketed}",
        braced=f"{victim}/{below[:-1]}{{{below[-1]}..{below[-1]}}}",
        ansi="$'" + "".join(f"\\x{ord(each):02x}" for each in absolute) + "'",
        octal="".join(f"\\{ord(each):03o}" for each in absolute),
        escaped="".join(f"\\{each}" for each in absolute),
        base64=base64.b64encode(absolute.encode()).decode(),
        reversed=absolute[::-1],
    )


def needs_privileges(form: str) -> bool:
    """Say whether a form changes something only for root, or does more than it should.

    Such forms are tried in a sandbox, but not without one.
    """
    words = ("mount ", "/proc/[0-9]", "/proc/1/", "nsenter -t 1 ")
    return any(word in form for word in words)


class Scene:
    """A project and the victim beside it, in a folder that holds nothing else.

    The project stays the directory that it is, since that is what confines commands.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.victim = folder / "victim"
        self._folder = folder
        self._archive = io.BytesIO()
        with tarfile.open(fileobj=self._archive, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
        self._clean: dict[str, object] = {}
        self._built: dict[str, tuple[int, ...]] = {}
        self._is_changed = False
        self._build()

    def reset(self) -> None:
        """Make everything as it was, if `changed` has found that it is not."""
        if self._is_changed or self._entries() != self._built:
            self._build()

    def changed(self) -> list[str]:
        """Return what is not as it was, of what no command may change."""
        now = self._state()
        names = {**self._clean, **now}
        found = [name for name in names if self._clean.get(name) != now.get(name)]
        self._is_changed = bool(found)
        return found

    def _build(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for path in [*self._folder.iterdir(), *self.root.iterdir()]:
            if path != self.root:
                _remove(path)
        self._build_victim()
        self._build_project()
        self._is_changed = False
        self._clean = self._state()
        self._built = self._entries()

    def _build_victim(self) -> None:
        for folder in (self.victim / "folder/inner", self.victim / "empty"):
            folder.mkdir(parents=True)
        for name in ("keep", "folder/inner/deep"):
            (self.victim / name).write_text("a keep\n", encoding="utf-8")

    def _build_project(self) -> None:
        root = self.root
        for name in (".git/hooks", ".git/objects", ".git/refs", "deep", "bin", "parts"):
            (root / name).mkdir(parents=True)
        texts = dict.fromkeys(PRESENT, "a = 1\n")
        texts |= {".git/config": "[a]\n\tb = c\n", ".git/HEAD": "ref: refs/heads/main\n"}
        texts |= {"a.txt": "a keep\n", "attributes": "*.f filter=f\n"}
        texts |= {"delete.tcl": "file delete [lindex $argv 0]\n"}
        texts |= {"change.diff": "--- a\n+++ a\n@@ -1 +1 @@\n-a keep\n+b keep\n"}
        texts |= dict.fromkeys(("bin/innocent", "parts/part"), '#!/bin/sh\nexec rm "$@"\n')
        for name, text in texts.items():
            (root / name).write_text(text, encoding="utf-8")
        for name in ("bin/innocent", "parts/part"):
            (root / name).chmod(0o755)
        (root / "some.tar").write_bytes(self._archive.getvalue())
        (root / "link").symlink_to(self.victim)
        (root / "deep/up").symlink_to("../..")

    def _entries(self) -> dict[str, tuple[int, ...]]:
        """Return what is in the project: whether it is still what was put there."""
        found: dict[str, tuple[int, ...]] = {}
        for folder in ("", "deep", "bin", "parts", ".git"):
            with contextlib.suppress(OSError), os.scandir(self.root / folder) as entries:
                for each in entries:
                    status = each.stat(follow_symlinks=False)
                    changes = 0 if each.is_dir() else status.st_mtime_ns
                    found[each.path] = (status.st_ino, status.st_mode, changes)
        return found

    def _state(self) -> dict[str, object]:
        """Return contents, kinds, rights and times."""
        found: dict[str, object] = {}
        for path in (self.victim, *(self.root / name for name in (*PRESENT, *ABSENT))):
            _look(path, found)
        for name in (".bashrc", ".vscode", ".ssh", ".envrc", ".git/commondir"):
            found[f"there is {name}"] = os.path.lexists(self.root / name)
        for path in [*self._folder.iterdir(), self.root / ".git", *_hooks(self.root)]:
            found[f"{path} is a directory"] = path.is_dir() and not path.is_symlink()
        return found


def _hooks(root: Path) -> list[Path]:
    hooks = root / ".git/hooks"
    return [hooks, *hooks.iterdir()] if hooks.is_dir() else [hooks]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)  # A command may have taken the rights from its owner.
        for below in path.iterdir():
            _remove(below)
        path.rmdir()
    else:
        path.unlink()


def _look(path: Path, found: dict[str, object]) -> None:
    try:
        status = path.lstat()
    except OSError:
        return
    found[f"status of {path}"] = (status.st_mode, status.st_uid, status.st_mtime_ns)
    with contextlib.suppress(PermissionError):  # The status says that it was changed.
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_dir():
            for below in sorted(path.iterdir()):
                _look(below, found)
        elif path.is_file():
            found[str(path)] = path.read_bytes()
