"""The to-do app."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import Json, api
from agentopd.envs.desk.apps.account import (
    DATE,
    FULL,
    NOTHING,
    PAGE,
    Protected,
    check_date,
    given,
    matches,
)
from agentopd.envs.desk.world import Todo


class Todos(Protected, name="todo"):
    """The to-do list."""

    @api({422: PAGE})
    def search(
        self, query: str = "", done: bool | None = None, page_index: int = 0, page_limit: int = 5
    ) -> Json:
        """To-dos whose title holds the words of the query, oldest first."""
        found = (
            todo
            for todo in self.world.todos
            if done in (None, todo.done) and matches(query, todo.title)
        )
        return self.page(found, _brief, page_index, page_limit)

    @api({409: FULL, 422: DATE}, writes=True)
    def add(self, title: str, due: str | None = None) -> Json:
        """Add a to-do, with the date it is due if it has one."""
        check_date(due)
        return {"todo_id": self.enter(self.world.todos, Todo(title=title, due=due)).id}

    @api({404: "there is no such to-do", 422: f"{NOTHING}; {DATE}"}, writes=True)
    def update(
        self,
        todo_id: int,
        title: str | None = None,
        due: str | None = None,
        done: bool | None = None,
    ) -> Json:
        """Change what is given of a to-do; done=True ticks it off."""
        todo = self._find(todo_id)
        check_date(due)
        changed = given(title=title, due=due, done=done)
        self.world.todos.insert(replace(todo, **changed))
        return {"updated": todo_id}

    @api({404: "there is no such to-do"}, writes=True)
    def delete(self, todo_id: int) -> Json:
        """Delete a to-do."""
        del self.world.todos.rows[self._find(todo_id).id]
        return {"deleted": todo_id}

    def _find(self, number: int) -> Todo:
        return self.find(self.world.todos, number, "to-do", "todo.search")


def _brief(todo: Todo) -> Json:
    return {"id": todo.id, "title": todo.title, "due": todo.due, "done": todo.done}
