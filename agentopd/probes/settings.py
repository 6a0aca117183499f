"""Which probes are looked at, and how closely."""

from __future__ import annotations

from pydantic import Field

from agentopd.base.parts import Settings


class ProbeSettings(Settings):
    """What is watched beside the loss; nothing here changes what is learnt.

    Args:
        enabled: `false` leaves out all that takes time: what the models think of tokens, and what
            is read off answers. Success, ends and seconds are always told.
        top: how many likeliest tokens of student and teacher are compared (2604.13016 takes 16).
        phrase: how many tokens in a row are a phrase that can be repeated or leak.
        pi_effect_every: steps between two looks at what the teacher would say if it were told
            nothing; 0 for none. Such a look takes another pass of the teacher, so that a step in
            ten costs less than a tenth of the time. The last step has one too.
    """

    enabled: bool = True
    top: int = Field(default=16, ge=1)
    phrase: int = Field(default=4, ge=1)
    pi_effect_every: int = Field(default=10, ge=0)

    def unread(self) -> dict[str, str]:
        """See `Settings.unread`."""
        names = () if self.enabled else ("top", "phrase", "pi_effect_every")
        return dict.fromkeys(names, "enabled: true")

    @property
    def keep(self) -> int:
        """How many likeliest tokens of each model a measurement has to keep."""
        return self.top if self.enabled else 0

    def pi_effect_due(self, step: int, steps: int) -> bool:
        """Whether a step, counted from 0, of a run of `steps` looks at the privilege's effect."""
        if not self.enabled or not self.pi_effect_every:
            return False
        return step % self.pi_effect_every == 0 or step + 1 == steps
