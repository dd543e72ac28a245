"""Appends and reads through the generated Python client."""

import os

from kimberlite_client import Client
from kimberlite_client.api.append import append_to_stream, append_transaction
from kimberlite_client.api.read import read_stream
from kimberlite_client.models import AppendRequest, EventPage, NewEvent, Problem, Receipt, ReadStreamDirection, TransactionRequest

STREAM = f"generated/python-{os.getpid()}"
DATA = {"list": [1, 2.5, None], "text": "grün"}


def main():
    client = Client(base_url=os.environ["KIMBERLITE_URL"], raise_on_unexpected_status=True)

    events = [NewEvent(type_="made", data=DATA, tags=["generated"]), NewEvent(type_="checked")]
    receipt = append_to_stream.sync(STREAM, client=client, body=AppendRequest(events), if_none_match="*")
    assert isinstance(receipt, Receipt), receipt
    assert (receipt.first_version, receipt.last_version) == (0, 1), receipt

    page = read_stream.sync(STREAM, client=client, direction=ReadStreamDirection.BACKWARD, limit=2)
    assert isinstance(page, EventPage), page
    assert [event.type_ for event in page.events] == ["checked", "made"], page
    assert page.events[1].data == DATA, page
    assert page.events[1].tags == ["generated"], page

    body = {"appends": [{"stream": STREAM, "events": [{"type": "made"}], "expected": {"version": 7}}], "conditions": []}
    refused = append_transaction.sync(client=client, body=TransactionRequest.from_dict(body))
    assert isinstance(refused, Problem) and refused.status == 412, refused
    assert refused.failed_conditions[0].stream == STREAM, refused
    print("Python: appended, read, refused")


main()
