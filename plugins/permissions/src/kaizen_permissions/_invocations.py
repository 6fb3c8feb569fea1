"""Takes a shell command apart, down to the programs that it would run.

The tree of the grammar is walked with what is known at each place: what variables are, and
in which directory a program would start. Every kind of node has to be known, and between
two of them there may be nothing but blanks: what is not foreseen is not understood. Both
sides of a condition are taken to run, and every branch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from kaizen_permissions._judged import Analysis, Invocation
from kaizen_permissions._places import Places
from kaizen_permissions._programs import Programs, Search, check_condition
from kaizen_permissions._state import MAX_VALUES, Outcome, Redirects, State
from kaizen_permissions._words import (
    Decoder,
    Node,
    NotUnderstoodError,
    Word,
    look_alike,
    named,
)

__all__ = ["Walk"]

_LOG = logging.getLogger("kaizen.permissions")

_MAX_BYTES = 20_000
_MAX_STEPS = 4_000
_MAX_DEPTH = 40
_MAX_SHOWN = 40
_MAX_COMBINATIONS = 16
_MAX_PARSING_S = 0.25
_MAX_PIPES = 300
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_GAP = re.compile(rb"(?:[ \t\n]|\\\n)*")
_JOINED = re.compile(rb"(?:\\\n)+")  # to bash, there is no gap
_BLANKS = re.compile(rb"(?:[ \t]|\\\n)*")
_RESERVED = frozenset(
    b"if then else elif fi do done case esac while until for in function { } ! [[ ]] select"
    b" coproc (( ))".split()
)
_ASSIGNS = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*(\[.*)?\+?=.*", re.DOTALL)
_USED = re.compile(rb"\$\{?([A-Za-z_][A-Za-z0-9_]*)")
_NUMBER_SIGNS = re.compile(rb"\(\([0-9\s+*/%()<>=!&|^~?:-]*\)\)")
_GOVERNS = re.compile(
    r"PATH|IFS|ENV|HOME|PWD|OLDPWD|CDPATH|SHELL.*|BASH.*|PS[0-4]|PROMPT.*|POSIX.*|GLOB.*"
    r"|EXECIGNORE|FIGNORE|FUNC.*|HIST.*|TMPDIR|TIMEFORMAT|OPT.*|LD_.*|DYLD_.*|GIT_.*|SSH_.*"
    r"|PYTHON.*|PERL.*|RUBY.*|NODE_.*|NPM_.*|npm_.*|JAVA.*|_JAVA.*|JDK.*|GCONV.*|LOCPATH"
    r"|NLSPATH|LC_.*|LANG.*|.*PAGER|.*EDITOR|VISUAL|BROWSER|.*_proxy|.*_PROXY|MAKE.*|CC|CXX"
    r"|.*FLAGS|.*OPTIONS|.*OPTS|.*_HOME|XDG_.*|LESS.*|TAR_.*|RSYNC_.*|PIP_.*|UV_.*|CARGO_.*"
    r"|RUST.*|GO[A-Z]*|DOCKER_.*|KUBE.*|AWS_.*|TERM.*|ZDOTDIR|MANPATH|INFOPATH|MALLOC_.*"
    r"|PYTEST_.*|COVERAGE_.*|DIRSTACK|COMP_.*|READLINE_.*|REPLY|MAPFILE|EUID|UID|PPID|histchars"
    r"|auto_resume|_|USER|LOGNAME|MAIL.*|HOST.*|OSTYPE|MACHTYPE|IGNOREEOF|INPUTRC|SECONDS"
    r"|RANDOM|SRANDOM|EPOCH.*|LINENO|CHILD_MAX|PIPESTATUS|COPROC|FCEDIT"
)


Handler: TypeAlias = Callable[["Walk", Node, State], Outcome]


@cache
def _language() -> Any:
    import tree_sitter_bash
    from tree_sitter import Language

    return Language(tree_sitter_bash.language())


class Walk:
    """One command being taken apart."""

    def __init__(self, cwd: Path, roots: Sequence[Path]) -> None:
        self.places = Places(str(cwd), [str(root) for root in roots])
        self.invocations: list[Invocation] = []
        self._programs = Programs(self)
        self._problem = ""
        self._anything = False
        self._mentions: set[str] = set()
        self._steps = 0
        self._depth = 0
        self._source = b""
        self._fed: Search | None = None

    def analysis(self, command: str) -> Analysis:
        """Say what a command would run."""
        try:
            self.script(command, State({}, (self.places.start,)))
        except NotUnderstoodError as error:
            self.problem(str(error))
            self._mentions |= _mentions(command)
        except RecursionError:
            self.problem("it is nested too deeply")
            self._mentions |= _mentions(command)
        except Exception:  # noqa: BLE001 - whoever asks has to get an answer
            _LOG.exception("judging a command failed: it counts as not understood")
            self.problem("judging it failed")
            self._mentions |= _mentions(command)
        if self._anything:
            self._mentions |= _mentions(command)
        return Analysis(
            understood=not self._problem,
            problem=self._problem,
            invocations=tuple(self.invocations),
            mentions=frozenset(self._mentions),
        )

    def may_run_anything(self) -> None:
        """Note that a program is not known: what rules forbid may be any of the words."""
        self._anything = True

    def problem(self, what: str) -> None:
        """Note what cannot be understood, if it is the first thing."""
        self._problem = self._problem or what

    def script(self, command: str, state: State) -> State:
        """Take a command, or a script inside one, apart."""
        source = _encoded(command)
        root = _parsed(source)
        outside, self._source = self._source, source
        fed, self._fed = self._fed, None
        try:
            with _Deeper(self):
                if _GAP.fullmatch(source[: root.start_byte]) is None:
                    raise NotUnderstoodError("it does not begin with a command")
                if _GAP.fullmatch(source[root.end_byte :]) is None:
                    raise NotUnderstoodError("something follows the last command")
                return self._sequence(self._children(root), state).always
        finally:
            self._source, self._fed = outside, fed

    # The tree.

    def _statement(self, node: Node, state: State) -> Outcome:
        self._count(1)
        handler = _HANDLERS.get(node.type)
        if handler is None:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        with _Deeper(self):
            return handler(self, node, state)

    def _count(self, parts: int) -> None:
        self._steps += parts
        if self._steps > _MAX_STEPS:
            raise NotUnderstoodError("it has too many parts")

    def _attempted(
        self, node: Node, state: State, redirects: Sequence[Node] = ()
    ) -> Outcome:
        """Walk a statement, and go on after it even if it was not understood."""
        try:
            if redirects:
                return self._redirecting(node, redirects, state)
            return self._statement(node, state)
        except NotUnderstoodError as error:
            self.problem(str(error))
            for each in (node, *redirects):
                self._mentions |= _mentions(self._text(each))
            return Outcome.of(state.forgetting())

    def _children(self, node: Node) -> list[Node]:
        """Return a node's children, between which only blanks and comments may stand."""
        children: list[Node] = node.children
        at = node.start_byte
        kept: list[Node] = []
        for child in children:
            gap = self._source[at : child.start_byte]
            if gap and (_GAP.fullmatch(gap) is None or _JOINED.fullmatch(gap)):
                raise NotUnderstoodError("something stands between two words")
            at = child.end_byte
            if child.is_missing or child.type == "ERROR":
                raise NotUnderstoodError("it is no shell command that can be parsed")
            if child.type == "comment":
                self._check_comment(child)
            else:
                kept.append(child)
        return kept

    def _check_comment(self, node: Node) -> None:
        before = self._source[max(node.start_byte - 1, 0) : node.start_byte]
        after = self._source[node.end_byte : node.end_byte + 1]
        inside = self._source[node.start_byte : node.end_byte]
        if before not in (b"", b" ", b"\t", b"\n", b";") or after not in (b"", b"\n"):
            raise NotUnderstoodError("a comment ends where bash would not end it")
        if b"\n" in inside or not inside.startswith(b"#"):
            raise NotUnderstoodError("a comment has more than one line")

    def _sequence(self, nodes: Sequence[Node], state: State) -> Outcome:
        """Walk statements that run one after the other."""
        outcome = Outcome.of(state)
        end: int | None = None
        for at, node in enumerate(nodes):
            if node.type in (";", "&", "\n", ";;"):
                end = None
                continue
            if end is not None and b"\n" not in self._source[end : node.start_byte]:
                raise NotUnderstoodError("two commands are not separated")
            end = node.end_byte
            before = outcome.always
            outcome = self._attempted(node, before)
            if at + 1 < len(nodes) and nodes[at + 1].type == "&":
                outcome = Outcome.of(before)
        return outcome

    def _list(self, node: Node, state: State) -> Outcome:
        return self._listed(node, self._children(node), state, ())

    def _listed(
        self,
        node: Node,
        children: Sequence[Node],
        state: State,
        redirects: Sequence[Node],
    ) -> Outcome:
        if len(children) != 3 or children[1].type not in ("&&", "||"):
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        first = self._attempted(children[0], state)
        return self._joined(first, children[1], children[2], redirects)

    def _joined(
        self, first: Outcome, operator: Node, node: Node, redirects: Sequence[Node] = ()
    ) -> Outcome:
        """Walk what follows `&&` or `||`."""
        if operator.type == "&&":
            second = self._attempted(node, first.success, redirects)
            return Outcome(second.success, first.always.or_else(second.always))
        second = self._attempted(node, first.always, redirects)
        return Outcome(
            first.success.or_else(second.success), first.always.or_else(second.always)
        )

    def _pipeline(self, node: Node, state: State) -> Outcome:
        self._piped(self._children(node), state)
        return Outcome.of(state)

    def _piped(
        self, children: Sequence[Node], state: State, redirects: Sequence[Node] = ()
    ) -> None:
        for child in children:
            if child.type in ("|", "|&"):
                continue
            before = len(self.invocations)
            given = redirects if child is children[-1] else ()
            # What has another input, or may have, passes on nothing.
            if any("<" in self._text(each) for each in (child, *given)):
                self._fed = None
            self._attempted(child, state, given)
            self._fed = self._programs.fed(self.invocations[before:], self._fed)
        self._fed = None

    def _negated(self, node: Node, state: State) -> Outcome:
        return self._negating(node, self._children(node), state, ())

    def _negating(
        self,
        node: Node,
        children: Sequence[Node],
        state: State,
        redirects: Sequence[Node],
    ) -> Outcome:
        if len(children) != 2 or children[0].type != "!":
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        return Outcome.of(self._attempted(children[1], state, redirects).always)

    def _subshell(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        self._expect(children, "(", ")")
        if children[1].type == "subshell" and children[1].start_byte == node.start_byte + 1:
            raise NotUnderstoodError("two brackets may be arithmetic")
        self._sequence(children[1:-1], state)
        return Outcome.of(state)

    def _group(self, node: Node, state: State) -> Outcome:
        raw = self._source[node.start_byte : node.end_byte]
        if raw.startswith(b"(("):
            if _NUMBER_SIGNS.fullmatch(raw) is None:
                raise NotUnderstoodError("arithmetic may run something")
            return Outcome.of(state)
        children = self._children(node)
        self._expect(children, "{", "}")
        return self._sequence(children[1:-1], state)

    def _expect(self, children: Sequence[Node], first: str, last: str) -> None:
        if len(children) < 2 or (children[0].type, children[-1].type) != (first, last):
            raise NotUnderstoodError("a group is not closed")

    def _if(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        done: list[State] = []
        entering = self._branch(children, state, done)
        return Outcome.of(_any_of([*done, entering]))

    def _branch(self, children: Sequence[Node], state: State, done: list[State]) -> State:
        """Walk `if` or `elif`; return what is known if no branch was taken."""
        types = [child.type for child in children]
        if "then" not in types or types[0] not in ("if", "elif"):
            raise NotUnderstoodError("a condition has no branch")
        then = types.index("then")
        condition = self._sequence(children[1:then], state)
        body = [c for c in children[then + 1 :] if c.type not in _CLAUSES]
        done.append(self._sequence(body, condition.success).always)
        left = condition.always
        for clause in children[then + 1 :]:
            if clause.type == "elif_clause":
                left = self._branch(self._children(clause), left, done)
            elif clause.type == "else_clause":
                left = self._sequence(self._children(clause)[1:], left).always
        return left

    def _while(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        if children[0].type not in ("while", "until"):
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        state = state.forgetting()
        condition = self._sequence(children[1:-1], state)
        after = self._do(children[-1], condition.always)
        return Outcome.of(self._settled(state, condition.always.or_else(after)))

    def _for(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        types = [child.type for child in children]
        if types[:2] != ["for", "variable_name"] or types[-1] != "do_group":
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        name = self._text(children[1])
        self.check_name(name)
        before = state.forgetting()
        values = self._values(
            [c for c in children[2:-1] if c.type not in ("in", ";")], state
        )
        inside = replace(before, values={**before.values, name: values})
        after = self._do(children[-1], inside)
        return Outcome.of(self._settled(before, before.or_else(after)))

    def _values(self, nodes: Sequence[Node], state: State) -> frozenset[str] | None:
        """Return what the variable of a loop may be."""
        words = [word for node in nodes for word in self._words(node, state)]
        self._check_names(words, state)
        if words and all(word.plain for word in words) and len(words) <= MAX_VALUES:
            return frozenset(word.text for word in words)
        return None

    def _check_names(self, words: Sequence[Word], state: State) -> None:
        """Refuse a pattern that matches names of files outside the roots."""
        if not all(w.pattern < 0 or self.places.inside(w, state.places) for w in words):
            raise NotUnderstoodError("it looks at files outside of what it may use")

    def _settled(self, before: State, after: State) -> State:
        if before.places != after.places:
            raise NotUnderstoodError("the directory changes in a loop")
        return after

    def _do(self, node: Node, state: State) -> State:
        children = self._children(node)
        self._expect(children, "do", "done")
        return self._sequence(children[1:-1], state).always

    def _case(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        self._expect(children, "case", "esac")
        self._words(children[1], state)
        done = [state]
        for item in children[2:-1]:
            if item.type == "case_item":
                done.append(self._case_item(item, _any_of(done)))
            elif item.type not in ("in", ";", "\n"):
                raise NotUnderstoodError(f"{self._shown(item)} is not followed")
        return Outcome.of(_any_of(done))

    def _case_item(self, node: Node, state: State) -> State:
        children = self._children(node)
        types = [child.type for child in children]
        if ")" not in types:
            raise NotUnderstoodError("a case is not closed")
        closed = types.index(")")
        for child in children[:closed]:
            if child.type not in ("(", "|"):
                self._words(child, state)
        body = [c for c in children[closed + 1 :] if c.type not in (";;", ";&", ";;&")]
        return self._sequence(body, state).always

    def _function(self, node: Node, state: State) -> Outcome:
        self.problem("a function is defined, and could stand for a program")
        body = node.child_by_field_name("body")
        if body is not None:
            self._attempted(body, state.forgetting())
        return Outcome.of(state.forgetting())

    def _test(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        if children[0].type not in ("[", "[["):
            raise NotUnderstoodError("arithmetic may run something")
        self._expect(children, children[0].type, "]" * len(children[0].type))
        double = children[0].type == "[["
        words = self._condition(children, state, double=double)
        if not double:
            check_condition(words)
        return Outcome.of(state)

    def _condition(
        self, children: Sequence[Node], state: State, *, double: bool
    ) -> list[Word]:
        """Walk the parts of `[ ... ]` or `[[ ... ]]`, and return its words."""
        words: list[Word] = []
        operators = [self._text(c) for c in children if c.type == "test_operator"]
        numeric = double and any(each in _NUMERIC for each in operators)
        for at, child in enumerate(children):
            if at and children[at - 1].end_byte == child.start_byte:
                raise NotUnderstoodError("a condition is not separated by blanks")
            if child.type in _EXPRESSIONS:
                words += self._condition(self._children(child), state, double=double)
            elif child.type == "test_operator":
                if self._text(child) in ("-v", "-R"):
                    raise NotUnderstoodError("a condition may run something")
                words.append(Word(text=self._text(child)))
            elif child.type in ("!", "=", "==", "!="):
                words.append(Word(text=child.type))
            elif child.type in ("[", "]", "[[", "]]"):
                continue
            elif not child.is_named:
                if not double or child.type not in ("&&", "||", "<", ">", "(", ")", "=~"):
                    raise NotUnderstoodError(f"{self._shown(child)} is not followed")
            elif child.type == "regex":
                if re.search(
                    rb"[$`<>;&\n]", self._source[child.start_byte : child.end_byte]
                ):
                    raise NotUnderstoodError("a condition may run something")
            else:
                found = self._words(child, state)
                if numeric and not re.fullmatch(r"-?[0-9]+|\$[?#]", found[0].text):
                    raise NotUnderstoodError("a condition may run something")
                words += found
        return words

    # Assignments.

    def _assignments(self, node: Node, state: State) -> Outcome:
        for child in self._children(node):
            if child.type != "variable_assignment":
                raise NotUnderstoodError(f"{self._shown(child)} is not followed")
            state = self._assignment(child, state).always
        return Outcome.of(state)

    def _assignment(self, node: Node, state: State) -> Outcome:
        name, value = self._assigned(node, state)
        self.check_name(name)
        return Outcome.of(state.assigned(name, value))

    def _assigned(self, node: Node, state: State) -> tuple[str, str | None]:
        """Return the name and the value of an assignment."""
        children = self._children(node)
        if len(children) not in (2, 3) or children[0].type != "variable_name":
            raise NotUnderstoodError("an assignment may run something")
        if any(a.end_byte != b.start_byte for a, b in pairwise(children)):
            raise NotUnderstoodError("an assignment ends where bash would not end it")
        name = self._text(children[0])
        if len(children) == 2:
            return name, "" if children[1].type == "=" else None
        value = children[2]
        if value.type == "array":
            parts = self._children(value)
            self._expect(parts, "(", ")")
            for part in parts[1:-1]:
                if self._source[part.start_byte : part.start_byte + 1] == b"[":
                    raise NotUnderstoodError("an assignment may run something")
                self._check_names(self._words(part, state), state)
            return name, None
        words = self._words(value, state)
        # A pattern is not expanded here, but a tilde is; braces are not.
        raw = self._source[value.start_byte : value.end_byte]
        plain = len(words) == 1 and words[0].known and b"~" not in raw and b"{" not in raw
        return name, words[0].text if plain and children[1].type == "=" else None

    def check_name(self, name: str) -> None:
        """Refuse a variable that may change what runs."""
        if not name.isascii() or _GOVERNS.fullmatch(name) is not None:
            raise NotUnderstoodError(f"the variable {name!r} may change what runs")

    def _declaration(self, node: Node, state: State) -> Outcome:
        children = self._children(node)
        kind = self._text(children[0])
        exported = kind == "export"
        if len(children) < 2:
            raise NotUnderstoodError(f"{kind!r} shows variables, which may be secret")
        for child in children[1:]:
            if child.type == "variable_assignment":
                name, value = self._assigned(child, state)
                if exported:
                    self._programs.check_variable(name, value)
                else:
                    self.check_name(name)
                state = state.assigned(name, value)
            elif child.type == "variable_name" and not exported:
                self.check_name(self._text(child))
                state = state.assigned(self._text(child), None)
            elif child.type != "word" or self._text(child) not in ("-r", "-g", "--"):
                raise NotUnderstoodError(f"{kind!r} may change what runs")
        return Outcome.of(state)

    def _unset(self, node: Node, state: State) -> Outcome:
        for child in self._children(node)[1:]:
            text = self._text(child)
            if text == "-v":
                continue
            if child.type not in ("variable_name", "word") or not text.isidentifier():
                raise NotUnderstoodError("what is unset may run something")
            self.check_name(text)
            state = state.assigned(text, None)
        return Outcome.of(state)

    # Commands.

    def _command(self, node: Node, state: State) -> Outcome:
        return self._called(node, Redirects(), state)

    def _redirected(self, node: Node, state: State) -> Outcome:
        body = node.child_by_field_name("body")
        children = self._children(node)
        if body is None:
            return self._redirecting(None, children, state)
        if children[0].start_byte != body.start_byte:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        return self._redirecting(body, children[1:], state)

    def _redirecting(
        self, body: Node | None, nodes: Sequence[Node], state: State
    ) -> Outcome:
        """Walk what is redirected; of several commands in a row, that is the last."""
        kind = "" if body is None else body.type
        if body is not None and kind in ("list", "pipeline", "negated_command"):
            children = self._children(body)
            if kind == "list":
                return self._listed(body, children, state, nodes)
            if kind == "pipeline":
                self._piped(children, state, nodes)
                return Outcome.of(state)
            return self._negating(body, children, state, nodes)
        if body is not None and kind == "redirected_statement":
            raise NotUnderstoodError(f"{self._shown(body)} is not followed")
        redirects = Redirects()
        for each in nodes:
            self._redirect(each, redirects, state)
        if body is not None and kind == "command":
            outcome = self._called(body, redirects, state)
        else:
            if redirects.further:
                raise NotUnderstoodError("a word follows where something is redirected")
            self._programs.redirect_only(redirects.writes, redirects.reads, state)
            outcome = Outcome.of(state) if body is None else self._attempted(body, state)
        return self._after_document(redirects.rest, outcome)

    def _after_document(self, nodes: Sequence[Node], outcome: Outcome) -> Outcome:
        """Walk what stands on the line on which a here-document is announced."""
        at = 0
        while at < len(nodes):
            node = nodes[at]
            if node.type == "pipeline":
                self._piped(self._children(node), outcome.always)
                outcome = Outcome.of(outcome.always)
                at += 1
            elif node.type in ("&&", "||") and at + 1 < len(nodes):
                outcome = self._joined(outcome, node, nodes[at + 1])
                at += 2
            else:
                raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        return outcome

    def _called(self, node: Node, redirects: Redirects, state: State) -> Outcome:
        """Walk one command, once for each of the values that its variables may have."""
        raw = self._source[node.start_byte : node.end_byte]
        names = [
            name
            for name in dict.fromkeys(found.decode() for found in _USED.findall(raw))
            if len(state.values.get(name) or ()) > 1
        ]
        choices = [sorted(state.values[name] or ()) for name in names]
        combinations = 1
        for each in choices:
            combinations *= len(each)
        if combinations > _MAX_COMBINATIONS:
            return self._with_values(node, redirects, state.forgetting(names))
        outcome: Outcome | None = None
        for values in product(*choices):
            chosen = state
            for name, value in zip(names, values, strict=True):
                chosen = chosen.assigned(name, value)
            found = self._with_values(node, redirects, chosen)
            if outcome is None:
                outcome = found
            else:
                outcome = Outcome(
                    outcome.success.or_else(found.success),
                    outcome.always.or_else(found.always),
                )
        assert outcome is not None
        return outcome

    def _with_values(self, node: Node, given: Redirects, state: State) -> Outcome:
        redirects = replace(
            given, writes=[*given.writes], reads=[*given.reads], further=[*given.further]
        )
        assigned: dict[str, str | None] = {}
        words: list[Word] = []
        end: int | None = None
        for child in self._children(node):
            self._check_between(end, child)
            end = child.end_byte
            if child.type == "variable_assignment" and not words:
                name, value = self._assigned(child, state)
                assigned[name] = value
            elif child.type == "command_name":
                self._check_command_name(child)
                words += self._words(child.children[0], state)
            elif child.type in ("file_redirect", "herestring_redirect"):
                before = len(redirects.further)
                self._redirect(child, redirects, state)
                if not words and len(redirects.further) > before:
                    raise NotUnderstoodError("a word follows where something is redirected")
                words += redirects.further[before:]
                del redirects.further[before:]
            elif child.type in _NO_WORDS:
                raise NotUnderstoodError(f"{self._shown(child)} is not followed")
            else:
                words += self._words(child, state)
        words += redirects.further
        if not words:
            raise NotUnderstoodError("a command has no name")
        return self._programs.run(words, assigned, redirects, state)

    def _check_between(self, end: int | None, child: Node) -> None:
        """Refuse words that bash would take for one, or for two commands."""
        if end is None:
            return
        gap = self._source[end : child.start_byte]
        if b"\n" in gap.replace(b"\\\n", b""):
            raise NotUnderstoodError("a line ends within a command")
        redirected = child.type in ("file_redirect", "herestring_redirect")
        before = self._source[end - 1 : end]
        if not gap.replace(b"\\\n", b"") and (not redirected or before in b"0123456789}"):
            raise NotUnderstoodError("two words are not separated")

    def _check_command_name(self, node: Node) -> None:
        raw = self._source[node.start_byte : node.end_byte]
        if raw in _RESERVED or _ASSIGNS.fullmatch(raw) is not None:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        inner = node.children
        if len(inner) != 1 or inner[0].end_byte != node.end_byte:
            raise NotUnderstoodError("a command has no name")

    def _words(self, node: Node, state: State) -> list[Word]:
        known = {
            name: next(iter(value)) if value is not None and len(value) == 1 else None
            for name, value in state.values.items()
        }
        decoder = Decoder(
            self._source, known, lambda each: self._nested(each, state), self._foreign
        )
        words = decoder.words(node)
        self._count(len(words))
        return words

    def _foreign(self, name: str) -> None:
        self.problem(f"the variable {name!r} is not the command's own, and may be secret")

    def _nested(self, node: Node, state: State) -> str | None:
        """Walk a substitution, and return its output if that is known."""
        raw = self._source[node.start_byte : node.end_byte]
        if raw.startswith(b"`") and b"\\" in raw:
            raise NotUnderstoodError("a backslash stands between backticks")
        children = self._children(node)
        ends = {"`": "`", "$(": ")", "<(": ")", ">(": ")"}
        if len(children) < 2 or ends.get(children[0].type) != children[-1].type:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        fed, self._fed = self._fed, None
        inside = children[1:-1]
        self._sequence(inside, state)
        self._fed = fed
        return self._printed(inside, state)

    def _printed(self, nodes: Sequence[Node], state: State) -> str | None:
        """Return what `cat <<'END'` prints, which is how long texts are passed on."""
        if len(nodes) != 1 or nodes[0].type != "redirected_statement":
            return None
        body = nodes[0].child_by_field_name("body")
        if body is None or self._text(body) != "cat":
            return None
        redirects = Redirects()
        children = self._children(nodes[0])
        if len(children) != 2 or children[1].type != "heredoc_redirect":
            return None
        self._redirect(children[1], redirects, state)
        if redirects.rest or redirects.writes or redirects.text is None:
            return None
        return redirects.text.rstrip("\n")

    # Redirections.

    def _redirect(self, node: Node, redirects: Redirects, state: State) -> None:
        if node.type == "file_redirect":
            self._file_redirect(node, redirects, state)
        elif node.type == "herestring_redirect":
            children = self._children(node)
            words = self._words(children[-1], state)
            if len(children) != 2 or len(words) != 1:
                raise NotUnderstoodError(f"{self._shown(node)} is not followed")
            redirects.text = words[0].text + "\n" if words[0].known else None
            redirects.fed = True
        elif node.type == "heredoc_redirect":
            self._document(node, redirects, state)
        else:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")

    def _file_redirect(self, node: Node, redirects: Redirects, state: State) -> None:
        children = self._children(node)
        if children[0].type == "file_descriptor":
            if children[0].end_byte != children[1].start_byte:
                raise NotUnderstoodError("a number stands apart from what it redirects")
            before = self._source[max(node.start_byte - 1, 0) : node.start_byte]
            if not self._text(children[0]).isdigit() or before not in _EDGES:
                raise NotUnderstoodError("a number may belong to a word")
            children = children[1:]
        elif self._source[max(node.start_byte - 1, 0) : node.start_byte] in _JOINS:
            raise NotUnderstoodError("a number may belong to a word")
        operator, targets = children[0].type, children[1:]
        if operator in (">&-", "<&-") and not targets:
            return
        for before_target, target in zip(children, targets, strict=False):
            gap = self._source[before_target.end_byte : target.start_byte]
            if _BLANKS.fullmatch(gap) is None or (
                before_target is not children[0] and not gap
            ):
                raise NotUnderstoodError("a redirection ends where bash would not end it")
        words = self._words(targets[0], state) if targets else []
        if len(words) != 1 or operator not in _OPERATORS:
            raise NotUnderstoodError(f"{self._shown(node)} is not followed")
        duplicates = operator in (">&", "<&") and re.fullmatch(r"[0-9]+-?|-", words[0].text)
        if not duplicates:
            if not words[0].plain and not words[0].piped:
                raise NotUnderstoodError("the file of a redirection is not known")
            if operator == "<&":
                raise NotUnderstoodError(f"{self._shown(node)} is not followed")
            target_word = words[0]
            if target_word.text == "-":  # a file of this name: the shell knows no other
                target_word = replace(target_word, text="./-")
            (redirects.reads if operator == "<" else redirects.writes).append(target_word)
        for target in targets[1:]:
            redirects.further += self._words(target, state)

    def _document(self, node: Node, redirects: Redirects, state: State) -> None:
        """Read a here-document; where it ends is found as bash would find it."""
        children = self._children_of_document(node)
        start = next((c for c in children if c.type == "heredoc_start"), None)
        if start is None:
            raise NotUnderstoodError("a here-document is not followed")
        line_end = self._source.find(b"\n", start.end_byte)
        after = [
            child
            for child in children
            if child.start_byte >= start.end_byte and not child.type.startswith("heredoc")
        ]
        if line_end < 0 or redirects.fed or any(c.end_byte > line_end for c in after):
            raise NotUnderstoodError("a here-document is not followed")
        raw = self._text(start)
        quoted = re.search(r"['\"\\]", raw) is not None
        name = re.sub(r"['\"\\]", "", raw)
        if not re.fullmatch(r"(['\"]?)\\?[A-Za-z0-9_.!-]+\1", raw):
            raise NotUnderstoodError("the end of a here-document is not followed")
        tabs = any(child.type == "<<-" for child in children)
        body_start = line_end + 1
        body_end, end = self._end_of_document(body_start, name.encode(), tabs=tabs)
        found = next((c for c in children if c.type == "heredoc_end"), None)
        if found is None or found.end_byte != end:
            raise NotUnderstoodError("a here-document ends where bash would not end it")
        redirects.fed = True
        body = next((c for c in children if c.type == "heredoc_body"), None)
        redirects.text = self._document_text(
            body, body_start, body_end, state, quoted=quoted
        )
        if redirects.text is not None and tabs:
            redirects.text = re.sub(r"(?m)^\t+", "", redirects.text)
        for child in after:
            if child.type in ("file_redirect", "herestring_redirect"):
                self._redirect(child, redirects, state)
            elif child.type in ("pipeline", "&&", "||") or child.type in _HANDLERS:
                redirects.rest.append(child)
            else:
                redirects.further += self._words(child, state)

    def _children_of_document(self, node: Node) -> list[Node]:
        children: list[Node] = node.children
        at = node.start_byte
        for child in children:
            gap = self._source[at : child.start_byte]
            # The grammar leaves tabs and empty lines before a body out.
            if not child.type.startswith("heredoc") and _BLANKS.fullmatch(gap) is None:
                raise NotUnderstoodError("something stands between two words")
            if _GAP.fullmatch(gap) is None or child.is_missing or child.type == "comment":
                raise NotUnderstoodError("a here-document is not followed")
            at = child.end_byte
        return children

    def _end_of_document(self, at: int, name: bytes, *, tabs: bool) -> tuple[int, int]:
        """Return where a document ends, and where the line that ends it does."""
        while at <= len(self._source):
            line_end = self._source.find(b"\n", at)
            line_end = len(self._source) if line_end < 0 else line_end
            line = self._source[at:line_end]
            if (line.lstrip(b"\t") if tabs else line) == name:
                return at, line_end
            at = line_end + 1
        raise NotUnderstoodError("a here-document does not end")

    def _document_text(
        self, body: Node | None, start: int, end: int, state: State, *, quoted: bool
    ) -> str | None:
        raw = self._source[start:end]
        if quoted or re.search(rb"[$`\\]", raw) is None:
            return raw.decode()
        if body is None or b"\\\n" in raw:  # which may hide the line that ends it
            raise NotUnderstoodError("a here-document is not followed")
        decoder = Decoder(
            self._source,
            dict.fromkeys(state.values),
            lambda each: self._nested(each, state),
            self._foreign,
        )
        return decoder.document(start, end, body)

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode()

    def _shown(self, node: Node) -> str:
        text = self._text(node)
        return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")

    def fed_by(self) -> Search | None:
        """Return the search whose results the program now judged is fed through a pipe."""
        return self._fed


class _Deeper:
    """Counts how deep parts stand in each other."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def __enter__(self) -> None:
        self._walk._depth += 1
        if self._walk._depth > _MAX_DEPTH:
            self._walk._depth -= 1
            raise NotUnderstoodError("it is nested too deeply")

    def __exit__(self, *_: object) -> None:
        self._walk._depth -= 1


_CLAUSES = ("elif_clause", "else_clause", "fi")
_NUMERIC = named("-eq -ne -lt -le -gt -ge")
_EXPRESSIONS = named(
    "unary_expression binary_expression parenthesized_expression negated_command"
)
_NO_WORDS = named("subshell variable_assignment heredoc_redirect")
_OPERATORS = named("< > >> &> &>> >& <& >|")
_JOINS = tuple(b"0 1 2 3 4 5 6 7 8 9 }".split())
_EDGES = (b"", b" ", b"\t", b"\n", b";", b"&", b"|", b"(", b")")
_HANDLERS: Mapping[str, Handler] = {
    "list": Walk._list,
    "pipeline": Walk._pipeline,
    "negated_command": Walk._negated,
    "subshell": Walk._subshell,
    "compound_statement": Walk._group,
    "if_statement": Walk._if,
    "while_statement": Walk._while,
    "for_statement": Walk._for,
    "case_statement": Walk._case,
    "function_definition": Walk._function,
    "test_command": Walk._test,
    "variable_assignment": Walk._assignment,
    "variable_assignments": Walk._assignments,
    "declaration_command": Walk._declaration,
    "unset_command": Walk._unset,
    "redirected_statement": Walk._redirected,
    "command": Walk._command,
}


def _any_of(states: Sequence[State]) -> State:
    found = states[0]
    for each in states[1:]:
        found = found.or_else(each)
    return found


def _parsed(source: bytes) -> Node:
    """Parse a command; what the grammar takes too long for is given up."""
    from tree_sitter import Parser

    until = monotonic() + _MAX_PARSING_S
    try:
        tree = Parser(_language()).parse(
            lambda at, _point: source[at:],
            progress_callback=lambda _at, _has_error: monotonic() > until,
        )
    except ValueError:
        raise NotUnderstoodError("it takes too long to parse") from None
    if tree.root_node.has_error:
        raise NotUnderstoodError("it is no shell command that can be parsed")
    return tree.root_node


def _encoded(command: str) -> bytes:
    """Return a command in UTF-8, if it is one that can be judged."""
    if _CONTROL.search(command) is not None:
        raise NotUnderstoodError("it holds a control character")
    if len(command) > _MAX_BYTES:
        raise NotUnderstoodError(f"it is longer than {_MAX_BYTES} bytes")
    if not command.isascii() and (problem := look_alike(command)) is not None:
        raise NotUnderstoodError(problem)
    try:
        source = command.encode()
    except UnicodeEncodeError:
        raise NotUnderstoodError("it is not valid text") from None
    if len(source) > _MAX_BYTES:
        raise NotUnderstoodError(f"it is longer than {_MAX_BYTES} bytes")
    # The grammar takes time that grows with the square of these, and is not stopped then.
    if source.count(b"|") > _MAX_PIPES:
        raise NotUnderstoodError("it has too many parts")
    return source


def _mentions(command: str) -> frozenset[str]:
    """Return the words of a command without their quotes and folders."""
    words = re.split(r"[\s;&|()<>`${}=,]+", re.sub(r"['\"\\]", "", command[:_MAX_BYTES]))
    return frozenset(word.rpartition("/")[2].casefold() for word in words if word)
