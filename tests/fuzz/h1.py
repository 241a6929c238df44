"""Fuzzes HTTP/1.1: ``python -m tests.fuzz.h1 --seconds 600``.

Inputs are made of the corpus by mutation; `h1_oracle` judges them. What fails is printed with its seed, by
which ``--seed`` makes it again.
"""

import argparse
import random
import sys
import time
from collections import Counter

from tests.fuzz.h1_oracle import judge_answers, judge_requests
from tests.node_proxy.dataplane.http.corpus import answer_cases, request_cases

# What parsers have stumbled over.
SPICES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b"\x0b",
        b"\x0c",
        b"\x7f",
        b"\x80",
        b"\xa0",
        b"\xff",
        b":",
        b",",
    ),
    *(b";", b"=", b'"', b"\\", b"#", b"?", b"/", b"//", b"@", b"%", b"%0d%0a", b"..", b"*", b"[", b"]", b"+"),
    *(
        b"-",
        b"_",
        b"0",
        b"00",
        b"0x",
        b"1e0",
        b"9" * 20,
        b"\r\n\r\n",
        b"\r\n ",
        b"\r\n\t",
        b"\n\n",
        b"\r\r\n",
    ),
    *(b"chunked", b"identity", b"gzip", b"close", b"keep-alive", b"upgrade", b"100-continue", b"trailers"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Connection: x\r\n"),
    *(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"HTTP/1.1", b"HTTP/1.0"),
)
METHODS = (b"GET", b"HEAD", b"POST")
# Seconds that one input may take on a busy machine: more is a hang in the making.
SLOW = 2.0
# Longer cases are about limits; mutating them finds nothing and takes its time.
LONGEST = 4096


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Make an input of one or two seeds."""
    data = bytearray(rng.choice(seeds))
    if rng.random() < 0.2:
        data += rng.choice(seeds)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((0, 0, 0, 1, 1, 2, 5, 20)))
        match rng.randrange(5):
            case 0:
                data[begin:end] = rng.choice(SPICES)
            case 1:
                data[begin:end] = bytes([rng.randrange(256)])
            case 2:
                del data[begin:end]
            case 3:
                data[begin:begin] = data[begin:end]
            case _:
                other = rng.choice(seeds)
                at = rng.randrange(len(other) + 1)
                data[begin:end] = other[at : at + rng.randrange(40)]
    return bytes(data)


def run_one(seed: int, requests: list[bytes], answers: list[bytes]) -> str:
    """Make one input and judge it; gives how it ended."""
    rng = random.Random(seed)  # noqa: S311 - to be made again, not to be secret
    positions = [rng.randrange(1 << 20) for _ in range(rng.randrange(12))]
    if rng.random() < 0.7:
        return judge_requests(mutate(rng, requests), positions).ending or "taken"
    return judge_answers(mutate(rng, answers), rng.choice(METHODS), positions).ending or "taken"


def main() -> int:
    """Fuzz for the time given; gives the number of failures as the exit status, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="judge only this one")
    options = parser.parse_args()
    requests = [case.sent for case in request_cases() if len(case.sent) <= LONGEST]
    answers = [case.sent for case in answer_cases() if len(case.sent) <= LONGEST]
    if options.seed is not None:
        print(run_one(options.seed, requests, answers))
        return 0
    begin = time.monotonic()
    first = int(begin * 1000) << 24
    endings: Counter[str] = Counter()
    failures = 0
    number = 0
    now = begin
    while now - begin < options.seconds and failures < 10:
        seed = first + number
        number += 1
        try:
            endings[run_one(seed, requests, answers)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            failures += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", file=sys.stderr)
        before, now = now, time.monotonic()
        if now - before > SLOW:
            failures += 1
            print(f"seed {seed}: took {now - before:.1f} s", file=sys.stderr)
    for ending, count in endings.most_common():
        print(f"{count:9d}  {ending}")
    print(f"{number:9d}  inputs in {now - begin:.0f} s, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
