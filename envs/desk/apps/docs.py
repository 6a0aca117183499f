"""The docs app: the documentation of all APIs, made from their signatures."""

from __future__ import annotations

from agentopd.envs.desk.api import Api, ApiError, Json, api
from agentopd.envs.desk.apps.account import Desktop


class Docs(Desktop, name="docs"):
    """The documentation of every app."""

    @api()
    def show_apps(self) -> Json:
        """The apps, and what each is for."""
        return {name: app.description() for name, app in self.state.apps.items()}

    @api()
    def show_apis(self, app_name: str) -> Json:
        """The APIs of an app, and what each does."""
        return {name: found.description for name, found in self._apis(app_name).items()}

    @api()
    def show_api(self, app_name: str, api_name: str) -> Json:
        """How one API is called: its arguments with their types and defaults."""
        apis = self._apis(app_name)
        if api_name not in apis:
            raise ApiError(404, f"{app_name} has no API of that name; it has {', '.join(apis)}.")
        return self._describe(apis[api_name])

    def _apis(self, app: str) -> dict[str, Api]:
        if app not in self.state.apps:
            raise ApiError(404, f"there is no such app; there are {', '.join(self.state.apps)}.")
        return self.state.apis(app)

    def _describe(self, found: Api) -> Json:
        required = [p.name for p in found.parameters if p.required]
        return {
            "call": found.signature(self.state.tokens),
            "required": required,
            "description": found.description,
        }
