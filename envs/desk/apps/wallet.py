"""The wallet app: payments and requests for money."""

from __future__ import annotations

from dataclasses import replace

from agentopd.envs.desk.api import ApiError, Json, api
from agentopd.envs.desk.apps.account import FULL, PAGE, Protected, check_amount, matches
from agentopd.envs.desk.world import Payment, Request

_DIRECTIONS = ("sent", "received", "all")
_DIRECTION = "direction is sent, received or all"
_STATUSES = ("pending", "paid", "declined", "cancelled", "all")
_STATUS = "status is pending, paid, declined, cancelled or all"
_NOBODY = "no wallet has this mail address"
_AMOUNT = "an amount is more than 0"
_NONE = "there is no such request"
_SETTLED = "the request is not sent to the user, or pending no more"


class Wallet(Protected, name="wallet"):
    """Money: the balance, payments, and requests for payment."""

    @api()
    def show_balance(self) -> Json:
        """The money in the wallet, in dollars."""
        self.state.seen.add(("Balance", 0, ""))
        return {"balance": self.world.balance}

    @api({422: f"{PAGE}; {_DIRECTION}"})
    def search_payments(
        self, query: str = "", direction: str = "all", page_index: int = 0, page_limit: int = 5
    ) -> Json:
        """Payments whose addresses or note hold the words of the query, newest first; direction is
        "sent", "received" or "all"."""
        found = [
            payment
            for payment in self.world.payments
            if self._concerns(payment, direction)
            and matches(query, payment.sender, payment.receiver, payment.note)
        ]
        found.sort(key=lambda payment: (payment.date, payment.id), reverse=True)
        return self.page(found, _payment, page_index, page_limit)

    @api(
        {404: _NOBODY, 409: f"the balance does not cover the amount; {FULL}", 422: _AMOUNT},
        writes=True,
    )
    def send(self, to: str, amount: float, note: str = "") -> Json:
        """Pay money to the mail address of a person with a wallet."""
        self._check_person(to)
        return {"payment_id": self._pay(to, check_amount(amount), note).id}

    @api({422: f"{PAGE}; {_DIRECTION}; {_STATUS}"})
    def search_requests(
        self,
        query: str = "",
        direction: str = "all",
        status: str = "pending",
        page_index: int = 0,
        page_limit: int = 5,
    ) -> Json:
        """Requests for money whose addresses or note hold the words of the query; direction is
        "sent", "received" or "all"; status is "pending", "paid", "declined", "cancelled" or
        "all"."""
        if status not in _STATUSES:
            raise ApiError(422, f"{_STATUS}.")
        found = (
            request
            for request in self.world.requests
            if self._concerns(request, direction)
            and status in ("all", request.status)
            and matches(query, request.sender, request.receiver, request.note)
        )
        return self.page(found, _request, page_index, page_limit)

    @api({404: _NOBODY, 409: FULL, 422: _AMOUNT}, writes=True)
    def request(self, to: str, amount: float, note: str = "") -> Json:
        """Ask a person with a wallet for money."""
        self._check_person(to)
        made = Request(sender=self.world.email, receiver=to, amount=check_amount(amount), note=note)
        return {"request_id": self.enter(self.world.requests, made).id}

    @api(
        {404: _NONE, 409: f"{_SETTLED}; the balance does not cover the amount; {FULL}"}, writes=True
    )
    def pay(self, request_id: int) -> Json:
        """Pay a pending request that was sent to the user."""
        request = self._pending(request_id, mine=False)
        made = self._pay(request.sender, request.amount, request.note)
        self.world.requests.insert(replace(request, status="paid"))
        return {"payment_id": made.id}

    @api({404: _NONE, 409: _SETTLED}, writes=True)
    def decline(self, request_id: int) -> Json:
        """Decline a pending request that was sent to the user."""
        request = self._pending(request_id, mine=False)
        self.world.requests.insert(replace(request, status="declined"))
        return {"declined": request_id}

    @api({404: _NONE, 409: "the request is not the user's own, or pending no more"}, writes=True)
    def cancel(self, request_id: int) -> Json:
        """Take back a pending request of the user's own."""
        request = self._pending(request_id, mine=True)
        self.world.requests.insert(replace(request, status="cancelled"))
        return {"cancelled": request_id}

    def _concerns(self, record: Payment | Request, direction: str) -> bool:
        if direction not in _DIRECTIONS:
            raise ApiError(422, 'direction is "sent", "received" or "all".')
        side = {"sent": (record.sender,), "received": (record.receiver,)}
        return self.world.email in side.get(direction, (record.sender, record.receiver))

    def _pay(self, to: str, amount: float, note: str) -> Payment:
        balance = self.world.balance
        if amount > balance:
            raise ApiError(409, f"the balance of {balance} does not cover {amount}.")
        paid = Payment(
            sender=self.world.email,
            receiver=to,
            amount=amount,
            note=note,
            date=self.world.today,
        )
        return self.enter(self.world.payments, paid)

    def _pending(self, number: int, mine: bool) -> Request:
        request = self.find(self.world.requests, number, "request", "wallet.search_requests")
        owner = request.sender if mine else request.receiver
        if owner != self.world.email:
            whose = "the user's own" if mine else "sent to the user"
            raise ApiError(409, f"request {number} is not {whose}.")
        if request.status != "pending":
            raise ApiError(409, f"request {number} is {request.status} already.")
        return request

    def _check_person(self, email: str) -> None:
        if email not in self.world.people:
            raise ApiError(
                404, "no wallet has this mail address; find people's with contacts.search."
            )


def _payment(payment: Payment) -> Json:
    return {
        "id": payment.id,
        "from": payment.sender,
        "to": payment.receiver,
        "amount": payment.amount,
        "note": payment.note,
        "date": payment.date,
    }


def _request(request: Request) -> Json:
    return {
        "id": request.id,
        "from": request.sender,
        "to": request.receiver,
        "amount": request.amount,
        "note": request.note,
        "status": request.status,
    }
