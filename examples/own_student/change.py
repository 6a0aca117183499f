"""Pay an amount exactly, with as few coins as there can be."""

import agentopd

COINS = (10, 5, 2, 1)


def fewest(amount):
    paid = []
    for coin in COINS:
        paid += [coin] * (amount // coin)
        amount %= coin
    return " ".join(map(str, paid))


class Change(agentopd.TextEnv):
    """An amount of 11 to 59, coins of 10, 5, 2 and 1, and no coin to spare."""

    system_prompt = "Pay exactly, with few coins of 10, 5, 2 and 1: <action>5</action>."

    def legal_actions(self):
        return [str(coin) for coin in COINS]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.amount = self.left = int(self.np_random.integers(11, 60))
        self.turns, self.max_turns = 0, len(fewest(self.amount).split())
        guide = "Give the largest coin that is not too large."
        return f"Pay {self.left}.", self._info() | {"guide": guide}

    def step(self, action):
        self.turns += 1
        said = agentopd.parse_action(action)
        valid = said in self.legal_actions()
        self.left -= int(said) if valid and int(said) <= self.left else 0
        paid = self.left == 0
        late = not paid and self.turns == self.max_turns
        info = self._info() | {"action_valid": valid}
        return f"{self.left} left.", float(paid), paid, late, info

    def _info(self):
        task, oracle = f"pay/{self.amount}", fewest(self.left)
        return {"task_id": task, "success": self.left == 0, "oracle": oracle}
