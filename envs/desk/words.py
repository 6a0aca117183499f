"""What the environment says: the rules, and what may be said after a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentopd.envs.desk.api import App
from agentopd.envs.desk.state import Logins, visible_apis
from agentopd.envs.desk.tasks.task import Check

GUIDE = (
    "Log in before the first call of an app. Search before you change anything, and read every "
    "page. Change only what was asked for, then complete the task; answer if something was asked, "
    "and give up with status fail only when a search shows that it cannot be done."
)

LONGEST = 2_000
"""Characters of a feedback; only what somebody did a hundred times takes more."""

_RULES = """You are an assistant who does tasks for a user with apps: {apps}.
{how}
{logins}\
docs.show_apis(app_name="mail") lists the APIs of an app, \
docs.show_api(app_name="mail", api_name="search") tells how one is called. Results come in pages: \
next_page is the page_index of the next one, or null.
Change nothing that the task does not ask for. End every task with supervisor.complete_task: with \
answer=... if the task asks for something, with nothing if it is done, with status="fail" if it \
cannot be done.
You may think first inside <think></think>. End your answer with {what} inside <action></action>, \
for example
<action>{example}</action>"""
_HOW = {
    "call": "You make one call a turn and read its result in the next.",
    "code": "You write one cell of Python a turn and read what it printed in the next; variables "
    "stay. The apps are modules that are imported already; refused calls raise an exception.",
}
_WHAT = {"call": "one call", "code": "one cell"}
_EXAMPLES = {
    "call": 'docs.show_api(app_name="mail", api_name="search")',
    "code": "for name in docs.show_apps():\n    print(name, list(docs.show_apis(app_name=name)))",
}
_LOGINS = {
    "token": "supervisor.show_passwords() shows the passwords; the login of an app, as "
    "mail.login(password=...), gives the token that its other APIs take as token=... .\n",
    "session": "supervisor.show_passwords() shows the passwords; log in to an app, as with "
    "mail.login(password=...), before you call its other APIs.\n",
    "open": "",
}
_BRIEF = {
    "call": "Do the task with one call of an app a turn.",
    "code": "Do the task with one cell of Python a turn.",
}


def rules(prompt: str, mode: str, logins: Logins, apps: Mapping[str, type[App]]) -> str:
    """The system prompt: `full`, `apis` (with the signature of every API) or `brief`."""
    if prompt == "brief":
        return _BRIEF[mode]
    text = _RULES.format(
        apps=", ".join(apps),
        how=_HOW[mode],
        logins=_LOGINS[logins],
        what=_WHAT[mode],
        example=_EXAMPLES[mode],
    )
    if prompt == "full":
        return text
    listed = (
        api.signature(logins == "token")
        for name in apps
        for api in visible_apis(apps[name], logins).values()
    )
    return "\n".join([text, "", "The APIs:", *listed])


def cut(text: str, most: int) -> str:
    """`text` with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[{left_out} characters left out]\n{text[len(text) - tail :]}"


def verdict(checks: Sequence[Check]) -> str:
    """What to say of a completed task."""
    failed = [check for check in checks if not check.passed]
    if not failed:
        return "The task is solved."
    said = "; ".join(
        f"{check.requirement} ({check.detail})" if check.detail else check.requirement
        for check in failed
    )
    return f"The task is not solved. It was required that {said}."


def shortfall(checks: Sequence[Check]) -> str:
    """The short name of the first thing that is wrong with a completed task."""
    names = {
        "goal": "goal missed",
        "collateral": "damage",
        "answer": "wrong answer",
        "status": "wrong status",
    }
    # The status first: who gave up, or did not, has seldom done the rest.
    failed = sorted((c for c in checks if not c.passed), key=lambda check: check.kind != "status")
    return names[failed[0].kind] if failed else ""
