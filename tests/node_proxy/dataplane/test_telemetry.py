from node_proxy.control import Sample
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.telemetry import MAX_DENIAL_LABELS, Telemetry, Traffic


def values(numbers: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Give what is reported, by name and labels."""
    return {(sample.name, sample.labels): sample.value for sample in numbers.report().samples}


def test_nothing_counted_is_nothing_reported() -> None:
    """A fresh worker reports no samples."""
    assert Telemetry().report().samples == ()


def test_counters_add_up() -> None:
    """Each count adds to what was there, by one or by an amount."""
    numbers = Telemetry()
    numbers.add("a")
    numbers.add("a", 2.5)
    assert numbers.report().samples == (Sample(name="a", labels=(), value=3.5),)


def test_labels_tell_counters_apart() -> None:
    """The same name with other labels is another number."""
    numbers = Telemetry()
    numbers.add("a", side="inbound")
    numbers.add("a", side="outbound")
    assert len(numbers.report().samples) == 2


def test_order_of_labels_does_not_matter() -> None:
    """Labels are a set of pairs."""
    numbers = Telemetry()
    numbers.add("a", x="1", y="2")
    numbers.add("a", y="2", x="1")
    assert values(numbers) == {("a", (("x", "1"), ("y", "2"))): 2}


def test_set_replaces() -> None:
    """A number that is kept elsewhere is reported as it stands."""
    numbers = Telemetry()
    numbers.set("a", 5)
    numbers.set("a", 3)
    assert values(numbers) == {("a", ()): 3}


def test_report_is_a_snapshot() -> None:
    """What is counted later does not change a report."""
    numbers = Telemetry()
    numbers.add("a")
    report = numbers.report()
    numbers.add("a")
    assert report.samples[0].value == 1


def test_connection() -> None:
    """A connection is counted while it is open; its end with its bytes and whether it was clean."""
    numbers = Telemetry()
    for _ in range(2):
        numbers.outbound("default/api").begin()
    numbers.outbound("default/api").end(Traffic(sent=10, received=20), "done")
    labels = (("side", "outbound"), ("workload", "default/api"))
    assert values(numbers) == {
        (telemetry.CONNECTIONS_OPENED, labels): 2,
        (telemetry.CONNECTIONS_OPEN, labels): 1,
        (telemetry.CONNECTIONS_CLOSED, (("outcome", "done"), *labels)): 1,
        (telemetry.CONNECTIONS_CLOSED, (("outcome", "refused"), *labels)): 0,
        (telemetry.CONNECTIONS_CLOSED, (("outcome", "cut"), *labels)): 0,
        (telemetry.BYTES_SENT, labels): 10,
        (telemetry.BYTES_RECEIVED, labels): 20,
    }


def test_security_is_told_apart() -> None:
    """What came through a tunnel and what came past the mesh are counted apart."""
    numbers = Telemetry()
    for security, count in ((telemetry.MTLS, 2), (telemetry.PLAINTEXT, 1)):
        for _ in range(count):
            numbers.inbound("default/api", security=security).begin()
    opened = {
        labels: value for (name, labels), value in values(numbers).items() if name.endswith("opened_total")
    }
    assert opened == {
        (("security", "mtls"), ("side", "inbound"), ("workload", "default/api")): 2,
        (("security", "plaintext"), ("side", "inbound"), ("workload", "default/api")): 1,
    }


def test_every_other_outcome_is_a_cut() -> None:
    """Outcomes are free text for the log; the label has three values, so that it stays countable."""
    numbers = Telemetry()
    api = numbers.outbound("default/api")
    for outcome in ("the far side reset the stream (8)", "policy: default/no-web", "refused"):
        api.begin()
        api.end(Traffic(), outcome)
    assert (api.cut, api.refused, api.done) == (2, 1, 0)


def test_denials() -> None:
    """Denials are counted by who was denied what, by which policy, and why."""
    numbers = Telemetry()
    for _ in range(2):
        numbers.denied(side="destination", reason="denied", policy="a/b", source="s", destination="d")
    ((name, labels), value), *rest = values(numbers).items()
    assert (name, value, rest) == (telemetry.DENIALS, 2, [])
    assert dict(labels) == {
        "side": "destination",
        "reason": "denied",
        "policy": "a/b",
        "source": "s",
        "destination": "d",
    }


def test_denials_are_bounded() -> None:
    """Beyond a number of callers and policies the rest is counted together, and none is lost."""
    numbers = Telemetry()
    for caller in range(MAX_DENIAL_LABELS + 50):
        numbers.denied(side="source", reason="denied", policy="", source=str(caller), destination="d")
    numbers.denied(side="source", reason="denied", policy="", source="0", destination="d")
    found = {dict(labels)["source"]: value for (_, labels), value in values(numbers).items()}
    assert len(found) == MAX_DENIAL_LABELS + 1
    assert (found["0"], found[telemetry.OTHER]) == (2, 50)
