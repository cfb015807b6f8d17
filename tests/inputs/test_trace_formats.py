"""Traces as others publish them: what each format says, and what a trace that cannot be says of itself."""

from __future__ import annotations

import gzip
import json

import pytest

from moesim import SpecError, load
from moesim.inputs.request_trace import check_requests, read_lengths, read_requests, trace_extent, trace_notes

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
LINE = '{"timestamp": 2000, "input_length": 100, "output_length": 5}'


@pytest.fixture
def trace(tmp_path):
    def write(name: str, text: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def sizes(path: str) -> list[tuple[float, int, int]]:
    assert not check_requests(path)
    return [(round(item.arrival_s, 4), item.input_len, item.output_len) for item in read_requests(path)]


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("a.csv", AZURE + "2023-11-16 18:17:03.9799600,48,10\n2023-11-16 18:17:04.0319600,31,8\n",
         [(0, 48, 10), (0.052, 31, 8)]),
        ("zone.csv", AZURE + "2024-05-10 00:00:00.25+00:00,2,5\n2024-05-10T02:00:01Z,3,6\n",
         [(0, 2, 5), (7200.75, 3, 6)]),
        ("epoch.csv", AZURE + "1700000000,2,5\n1700000001,3,6\n", [(0, 2, 5), (1, 3, 6)]),
        ("epoch_ms.csv", AZURE + "1700000000000,2,5\n1700000000500,3,6\n", [(0, 2, 5), (0.5, 3, 6)]),
        ("semicolons.csv", "\ufefftimestamp;context tokens;GENERATED_TOKENS\r\n2024-05-10 00:00:00;2;5\r\n",
         [(0, 2, 5)]),
        ("b.csv", BURST + "19440110.0,u,43,GPT-4,906,446,1352,Chat\n19440161.0,v,2,GPT-4,36,29,65,Chat\n",
         [(0, 906, 446), (51, 36, 29)]),
        ("v.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,7,8\n", [(0, 7, 8)]),
        ("m.csv", "timestamp,input_length,output_length\n3000,7,8\n4500,7,9.0\n", [(0, 7, 8), (1.5, 7, 9)]),
        ("t.tsv", "\n# mine\narrival_s\tinput_len\toutput_len\n1\t2\t3\n", [(1, 2, 3)]),
        ("l.jsonl", f"{LINE}\n{LINE}\r\n\n", [(0, 100, 5)] * 2),
        ("joined.jsonl", f"{LINE}{LINE} {LINE}\n", [(0, 100, 5)] * 3),
        ("list.json", f"[{LINE}, {LINE}]", [(0, 100, 5)] * 2),
        ("pretty.json", json.dumps([json.loads(LINE)] * 2, indent=2), [(0, 100, 5)] * 2),
        ("object.json", json.dumps(json.loads(LINE), indent=2), [(0, 100, 5)]),
        ("packed.jsonl.gz", gzip.compress(f"{LINE}\n".encode(), mtime=0), [(0, 100, 5)]),
        ("date.jsonl", LINE.replace("2000", '"2024-05-10 00:00:00"'), [(0, 100, 5)]),
        ("seconds.jsonl", LINE.replace("2000", "1700000000") + "\n" + LINE.replace("2000", "1700000003"),
         [(0, 100, 5), (3, 100, 5)]),
    ],
)  # fmt: skip
def test_what_is_published_reads_as_it_is(trace, name, text, read):
    assert sizes(trace(name, text)) == read


def test_rows_in_any_order_are_sorted_and_it_is_said(trace):
    path = trace("m.jsonl", LINE.replace("2000", "3052") + "\n" + LINE.replace("2000", "3001") + "\n")
    assert [arrival for arrival, _, _ in sizes(path)] == [0, 0.051]
    assert trace_notes(path) == ("m.jsonl: lines are not in order of arrival, and are sorted",)
    assert trace_extent(path).last_arrival_s == pytest.approx(0.051)


def test_requests_that_generated_nothing_are_left_out_and_counted(trace):
    rows = "5,ChatGPT,472,18,490,Chat\n45,ChatGPT,1087,0,1087,Chat\n118,GPT-4,0,0,0,Chat\n"
    path = trace("b.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + rows)
    assert sizes(path) == [(0, 472, 18)]
    assert trace_notes(path) == ("b.csv: 2 requests that generate nothing (failed or cut off) left out",)
    nothing = trace("z.jsonl", LINE.replace("5}", "0}"))
    assert "none of its 1 requests generates a token" in check_requests(nothing)[0].message


def test_a_parent_that_is_no_number_is_one(trace):
    assert sizes(trace("a.jsonl", LINE.replace("}", ', "parent_chat_id": [1]}'))) == [(0, 100, 5)]


def test_sessions_come_at_their_timestamps(trace):
    turns = [{"session_id": "a", "timestamp": at, "input_length": 9, "output_length": 9} for at in (0, 4000)]
    path = trace("s.jsonl", "\n".join(map(json.dumps, turns)))
    assert [arrival for arrival, _, _ in sizes(path)] == [0, 4]
    assert "whether the turn before is answered or not" in trace_notes(path)[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"session_id": "s", "input_length": 5, "output_length": 7}\n{"delay": 3, "input_length": 5, '
                    '"output_length": 7}'),
        ("a.csv", "INPUT_LEN;output_len\n5;7\n5;7\n"),
        ("b.csv", BURST + "1,u,4,GPT-4,5,7,12,Chat\n2,u,4,GPT-4,5,0,5,Chat\n3,u,4,GPT-4,5,7,12,Chat\n"),
    ],
)  # fmt: skip
def test_lengths_alone_come_from_any_trace(trace, name, text):
    assert read_lengths(trace(name, text)) == ((5, 7), (5, 7))


def test_lengths_that_are_none_say_so(trace):
    for name, text in (("a.jsonl", '{"input_length": 5}'), ("a.csv", "input_len\n5\n"), ("b.json", '[{"a": 1}]')):
        with pytest.raises(SpecError, match="is not a pair of lengths"):
            read_lengths(trace(name, text))


def test_images_are_said(trace):
    table = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15,2,10,5\n2024-10-15,0,10,5\n"
    assert trace_notes(trace("i.csv", table)) == (
        "i.csv: requests with images (1) are taken as text of their prompt tokens",
    )


def test_qwen_counts_seconds_and_hashes_sixteen_tokens(trace):
    line = {"chat_id": 1, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 40, "output_length": 3,
            "turn": 1, "hash_ids": [7, 8, 9]}  # fmt: skip
    path = trace("q.jsonl", f"{json.dumps(line)}\n{json.dumps(line | {'timestamp': 63.5})}\n")
    first, second = read_requests(path)
    assert first.segments == ((7, 16), (8, 16), (9, 8)) and second.arrival_s == 2
    del line["chat_id"]
    many = line | {"input_length": 1600, "hash_ids": list(range(100))}
    assert next(read_requests(trace("t.jsonl", json.dumps(many)))).segments[-1] == (99, 16)


@pytest.mark.parametrize(("block", "second"), [(512, 0.5), (256, 0.5), (128, 0.5), (64, 0.5), (16, 500)])
def test_the_block_of_a_hash_is_what_fits_every_prompt(trace, block, second):
    """Of tools that hash blocks of their own, in ms; sixteen tokens are Qwen's, in seconds."""
    lengths = [3000, 700, 5 * block]
    lines = [
        json.dumps(
            {"timestamp": 500 * i, "input_length": n, "output_length": 4, "hash_ids": list(range(-(-n // block)))}
        )
        for i, n in enumerate(lengths)
    ]
    found = list(read_requests(trace("t.jsonl", "\n".join(lines))))
    assert [sum(length for _, length in item.segments) for item in found] == lengths
    assert found[0].segments[0] == (0, block) and found[1].arrival_s == second


@pytest.mark.parametrize("unit", [1e3, 1e6, 1e9])
def test_epochs_of_any_unit(trace, unit):
    lines = [LINE.replace("2000", str(int((1_763_000_000 + s) * unit))) for s in (0, 3)]
    assert [round(s, 3) for s, *_ in sizes(trace("t.jsonl", "\n".join(lines)))] == [0, 3]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", AZURE + "yesterday,2,10\n", ":2: 'yesterday,2,10' is not a request: a date and time, then"),
        ("a.csv", AZURE + "2024-10-15 00:00:00\n", ":2: '2024-10-15 00:00:00' is not a request"),
        ("a.csv", AZURE + "2024-10-15 00:00:00,-2,10\n", ":2: ContextTokens is -2; whole numbers from 1"),
        ("a.csv", AZURE + "2024-10-15 00:00:00,2.5,10\n", ":2: '2024-10-15 00:00:00,2.5,10' is not a request"),
        ("a.csv", "hello\n1\n", ":1: lacks the column arrival_s, input_len, output_len; its first line names hello"),
        ("a.csv", "timestamp,input_length,output_length,hash_ids\n0,9,9,[1]\n", ":1: has hash_ids, which are read"),
        ("a.csv", "timestamp,input_length,output_length\nnoon,9,9\n", ":2: 'noon,9,9' is not a request: milliseconds,"),
        ("a.csv", "arrival_s,input_len,output_len,prefix_id\n0,9,9,1\n", ":1: has prefix_id without prefix_len"),
        ("a.jsonl", LINE.replace("}", ', "hash_ids": "12"}'), ":1: is not a request"),
        ("a.jsonl", LINE.replace("}", ', "hash_ids": [1.5]}'), ":1: is not a request"),
        ("a.jsonl", LINE.replace("2000", "NaN"), ":1: arrival nan is not a time"),
        ("a.jsonl", f"{LINE}\n{LINE[:20]}", ":2: is not a request"),
        ("a.jsonl", f"{LINE}\n{{oops\n", ":2: is not a request"),
        ("a.json", '[{"a": 1}]', " entry 1: is not a request"),
        ("a.json", "[" * 100_000, ":1: is not a request"),
        ("a.json", "[]", ": the trace holds no request"),
        ("a.json", '[{"id": "x", "conversations": []}]', " entry 1: holds text ('conversations')"),
        ("a.jsonl", '{"messages": [], "timestamp": 0}', ":1: holds text ('messages')"),
        ("a.jsonl", '{"input_length": 5, "output_length": 5}', ":1: the request has no timestamp"),
        ("a.jsonl", f'{LINE}\n{{"session_id": "s", "delay": 5, "input_length": 5, "output_length": 5}}',
         ":2: this turn of a session has no timestamp: requests of a trace come at times of their own, and none waits"),
        ("a.parquet", b"PAR1....", ": is a Parquet file; a CSV table or JSON lines are read"),
        ("a.gz", gzip.compress(LINE.encode() * 99, mtime=0)[:40], ": cannot be decompressed"),
        ("a.csv", b"\xff\xfe1,2", ": is not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(trace, name, text, said):
    path = trace(name, text)
    assert str(check_requests(path)[0]).startswith(path + said)
    with pytest.raises(SpecError):
        assert not trace_extent(path).requests
        raise SpecError("nothing in it")


def test_shared_beginnings_of_a_published_trace_are_found_in_the_cache(trace, tmp_path):
    from moesim import predict

    lines = [{"timestamp": at, "input_length": 1100, "output_length": 4, "hash_ids": [1, 2, 3]} for at in (0, 9000)]
    path = trace("m.jsonl", "\n".join(map(json.dumps, lines)))
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        f"model: Mixtral-8x7B-v0.1\nhardware: h100-sxm\nengine: {{tp: 4}}\nworkload: {{trace_file: {path}}}\n"
    )
    report = predict(load(scenario)).report
    assert report.answered == 2 and report.cached_tokens == 1088
