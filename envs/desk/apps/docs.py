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

    @api({404: "there is no such app"})
    def show_apis(self, app_name: str) -> Json:
        """The APIs of an app, and what each does."""
        return {name: found.description for name, found in self._apis(app_name).items()}

    @api({404: "there is no such app or API"})
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
            "errors": {str(status): why for status, why in sorted(self._errors(found).items())},
        }

    def _errors(self, found: Api) -> dict[int, str]:
        """Why a call may be refused: its own reasons after those that hold for every API."""
        errors = dict(found.errors)
        if found.parameters:
            fits = "the arguments do not fit the call"
            errors[422] = f"{fits}; {errors[422]}" if 422 in errors else fits
        if not found.open and self.state.logins != "open":
            errors[401] = "not logged in"
        return errors
