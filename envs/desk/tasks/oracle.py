"""The best next calls from any state: what is still to be found out, mended, done and answered."""

from __future__ import annotations

from agentopd.envs.desk.api import TOKEN, ApiError, Call, call
from agentopd.envs.desk.desk import APPS, Desk
from agentopd.envs.desk.state import State
from agentopd.envs.desk.tasks.task import Task, evaluate, progress
from agentopd.envs.desk.world import Change, Playlist

Seen = frozenset[tuple[str, int, str]]
Plan = list[list[Call]]
"""Calls in stages: a call uses nothing that a call of its own stage shows."""

_UPDATES = {
    "contacts": ("contacts.update", "contact_id", ("name", "email", "phone", "birthday")),
    "events": ("calendar.update", "event_id", ("title", "date", "start", "end", "place")),
    "todos": ("todo.update", "todo_id", ("title", "due", "done")),
}
_DELETES = {
    "contacts": ("contacts.delete", "contact_id"),
    "events": ("calendar.delete", "event_id"),
    "todos": ("todo.delete", "todo_id"),
    "likes": ("music.unlike", "song_id"),
    "playlists": ("music.delete_playlist", "playlist_id"),
}


class Oracle:
    """Answers for one task.

    A read is due until its records have been seen, by whatever calls. A goal is due until its
    changes are there. Changes that nobody wants are taken back where an API can do that.

    Args:
        task: the task.
        start: the state it begins in.
    """

    def __init__(self, task: Task, start: State) -> None:
        self.task = task
        self.start = start
        self._shows = [[(read, self._shown(read)) for read in stage] for stage in task.reads]

    def plan(self, state: State) -> Plan | None:
        """The calls that solve the task from `state`; None where nothing can any more.

        Empty when the task is solved.
        """
        if state.completion:
            done = all(check.passed for check in evaluate(self.task, self.start.world, state))
            return [] if done else None
        reads = [
            [read for read, shown in stage if not _known(read, shown, state)]
            for stage in self._shows
        ]
        reached = progress(self.task, self.start.world, state.world)
        repairs = [mending for change in reached.stray for mending in _undo(change)]
        ending = _ending(self.task)
        last = [*repairs, *(goal.call for goal in reached.unmet), ending]
        plan = self._opened([*reads, last], state)
        if self._solves(plan, state):
            return plan
        # A read is refused where what it would show was deleted; the task may be solved without.
        answered = [[read for read in stage if self._answered(read, state)] for stage in reads]
        plan = self._opened([*answered, last], state)
        return plan if answered != reads and self._solves(plan, state) else None

    def _opened(self, stages: Plan, state: State) -> Plan:
        """The stages that hold calls, after the logins they need, with tokens where those must be
        shown.
        """
        return [
            [self._with_token(c, state) for c in stage]
            for stage in [*self._logins(stages, state), *stages]
            if stage
        ]

    def _logins(self, stages: Plan, state: State) -> Plan:
        """The passwords and the logins that the calls of `stages` need."""
        if state.logins == "open":
            return []
        named = dict.fromkeys(call.app for stage in stages for call in stage)
        needed = [n for n in named if APPS[n].protected and n not in state.logged_in]
        passwords = {a.app: a for a in state.world.accounts}
        hidden = any(("Account", passwords[n].id, "") not in state.seen for n in needed)
        return [
            [call("supervisor.show_passwords")] if hidden else [],
            [call(f"{name}.login", password=passwords[name].password) for name in needed],
        ]

    def _with_token(self, call: Call, state: State) -> Call:
        if not state.tokens or not APPS[call.app].protected or call.api == "login":
            return call
        return Call(call.app, call.api, {**call.arguments, TOKEN: state.token(call.app)})

    def _shown(self, read: Call) -> Seen:
        """The records that a read shows a newcomer."""
        state = self.start.copy()
        state.logins = "open"
        Desk(state).call(read)
        return frozenset(state.seen - self.start.seen)

    def _answered(self, read: Call, state: State) -> bool:
        """Whether a read is carried out as things stand."""
        copy = state.copy()
        copy.logins = "open"
        try:
            Desk(copy).call(read)
        except ApiError:
            return False
        return True

    def _solves(self, plan: Plan, state: State) -> bool:
        """Whether the plan, played on a copy, is carried out and passes every check."""
        copy = state.copy()
        desk = Desk(copy)
        try:
            for stage in plan:
                for call in stage:
                    desk.call(call)
        except ApiError:
            return False
        return all(check.passed for check in evaluate(self.task, self.start.world, copy))


def _known(read: Call, shown: Seen, state: State) -> bool:
    """Whether a read would tell nothing new. One that shows nothing must have been made."""
    return read.key in state.called or (bool(shown) and shown <= state.seen)


def _ending(task: Task) -> Call:
    done = task.completion
    arguments = {"answer": done.answer} if done.answer is not None else {}
    status = {"status": done.status} if done.status != "success" else {}
    return call("supervisor.complete_task", **arguments, **status)


def _undo(change: Change) -> list[Call]:
    """Calls that take a change back; empty where no API can."""
    if change.before is None and change.after and change.table in _DELETES:
        name, argument = _DELETES[change.table]
        return [call(name, **{argument: change.after.id})]
    if change.after is None and change.before and change.table == "likes":
        return [call("music.like", song_id=change.before.id)]
    if change.before and change.after and change.table in _UPDATES:
        name, argument, fields = _UPDATES[change.table]
        old = {f: getattr(change.before, f) for f in fields if f in change.altered}
        return [call(name, **{argument: change.before.id, **old})]
    if isinstance(change.before, Playlist) and isinstance(change.after, Playlist):
        return _reorder(change.before, change.after.songs)
    return []


def _reorder(wanted: Playlist, songs: tuple[int, ...]) -> list[Call]:
    """Calls that give a playlist its songs again: songs come off anywhere, but on at the end."""
    kept = 0
    while songs[: kept + 1] == wanted.songs[: kept + 1] and kept < len(wanted.songs):
        kept += 1
    off = [call("music.remove_song", playlist_id=wanted.id, song_id=s) for s in songs[kept:]]
    on = [call("music.add_song", playlist_id=wanted.id, song_id=s) for s in wanted.songs[kept:]]
    return [*off, *on]
