"""Classes of broken input.

Every class turns a sound line into one that must not be trained on; what proves it is said by its name. `files` are whole
files: of what can still be read of them, nothing but sound lines may come.
"""

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

from benchmarks.data_validation.corpus import GERMAN, PLANTS, Corpus, passage
from components.shared.contracts.records import Trajectory

Line = Callable[[random.Random, bytes], bytes]
"""A sound line to a broken one."""
File = Callable[[random.Random, list[bytes]], tuple[str, bytes]]
"""Sound lines to a file's suffix and content."""


def edited(change: Callable[[dict[str, Any]], Any]) -> Line:
    """An edit of the record as JSON."""

    def operator(rng: random.Random, raw: bytes) -> bytes:
        record = json.loads(raw)
        change(record)
        return json.dumps(record, ensure_ascii=False).encode()

    return operator


def bytes_of(change: Callable[[bytes], bytes]) -> Line:
    return lambda rng, raw: change(raw)


def reworded(change: Callable[[random.Random, str], str]) -> Line:
    """Another text of the last step, under the id that it then rightly has."""

    def operator(rng: random.Random, raw: bytes) -> bytes:
        sound = Trajectory.model_validate_json(raw)
        texts = [step.text for step in sound.steps]
        corpus = Corpus.of(sound.scenario.model_type)
        return corpus.answered(sound.scenario, [*texts[:-1], change(rng, texts[-1])]).model_dump_json().encode()

    return operator


def saying(*values: str) -> Line:
    return reworded(lambda rng, text: f"{text} Mind that {rng.choice(values)} is the one.")


def inside(addition: bytes) -> Line:
    """Raw bytes inside of a string."""
    return bytes_of(lambda raw: raw.replace(b'"text":"', b'"text":"' + addition, 1))


LINES: dict[str, Line] = {
    "empty": bytes_of(lambda raw: b""),
    "blank": bytes_of(lambda raw: b"   \t "),
    "prose": lambda rng, raw: passage(rng, 2).encode(),
    "cut in the middle": lambda rng, raw: raw[: rng.randrange(1, len(raw) - 1)],
    "last brace missing": bytes_of(lambda raw: raw[:-1]),
    "a brace too many": bytes_of(lambda raw: raw + b"}"),
    "two records": bytes_of(lambda raw: raw + raw),
    "single quotes": bytes_of(lambda raw: raw.replace(b'"', b"'")),
    "trailing comma": bytes_of(lambda raw: raw[:-1] + b",}"),
    "comment": bytes_of(lambda raw: raw + b" // sound"),
    "bare key": bytes_of(lambda raw: raw.replace(b'"id"', b"id", 1)),
    "array": bytes_of(lambda raw: b"[" + raw + b"]"),
    "null": bytes_of(lambda raw: b"null"),
    "number": bytes_of(lambda raw: b"17"),
    "string": bytes_of(lambda raw: json.dumps(raw.decode()).encode()),
    "stray byte": inside(b"\xff"),
    "Latin-1": inside("Müller".encode("latin-1")),
    "overlong UTF-8": inside(b"\xc0\xaf"),
    "UTF-8 surrogate": inside(b"\xed\xa0\x80"),
    "UTF-16": bytes_of(lambda raw: raw.decode().encode("utf-16")),
    "byte order mark": bytes_of(lambda raw: b"\xef\xbb\xbf" + raw),
    "NUL": inside(b"\x00"),
    "raw control character": inside(b"\x07"),
    "lone surrogate": inside(b"\\ud800"),
    "bad escape": inside(b"\\x41"),
    "key twice": bytes_of(lambda raw: raw[:-1] + b',"attempt":1}'),
    "key twice, deep": bytes_of(lambda raw: raw.replace(b'"state":{', b'"state":{"number":0,', 1)),
    "NaN": bytes_of(lambda raw: raw.replace(b'"state":{', b'"state":{"x":NaN,', 1)),
    "Infinity": bytes_of(lambda raw: raw.replace(b'"action":{', b'"action":{"x":-Infinity,', 1)),
    "1e999": bytes_of(lambda raw: raw.replace(b'"action":{', b'"action":{"x":1e999,', 1)),
    "deep arrays": bytes_of(
        lambda raw: raw.replace(b'"action":{', b'"action":{"x":' + b"[" * 99 + b"]" * 99 + b",", 1)
    ),
    "deep objects": bytes_of(
        lambda raw: raw.replace(b'"action":{', b'"action":{"x":' + b'{"a":' * 99 + b"1" + b"}" * 99 + b",", 1)
    ),
    "bottomless": bytes_of(lambda raw: b"[" * 100_000),
    "overlong": bytes_of(lambda raw: raw.replace(b'"text":"', b'"text":"' + b"a " * 600_000, 1)),
    "5,000 digits": bytes_of(lambda raw: raw.replace(b'"action":{', b'"action":{"x":' + b"9" * 5000 + b",", 1)),
    "field missing": edited(lambda r: r.pop("teacher")),
    "field unknown": edited(lambda r: r.update(mood="gay")),
    "text for a number": edited(lambda r: r.update(attempt="1")),
    "text for a truth": edited(lambda r: r["verdict"].update(passed="yes")),
    "no steps": edited(lambda r: r.update(steps=[])),
    "steps by name": edited(lambda r: r.update(steps={"1": r["steps"][0]})),
    "no scenario": edited(lambda r: r.update(scenario=None)),
    "split unknown": edited(lambda r: r["scenario"].update(split="exam")),
    "reward above 1": edited(lambda r: r["steps"][0].update(reward=1.01)),
    "reward below 0": edited(lambda r: r["steps"][-1].update(reward=-0.01)),
    "score above 1": edited(lambda r: r["verdict"].update(score=7)),
    "difficulty below 0": edited(lambda r: r["scenario"].update(difficulty=-1)),
    "attempt 0": edited(lambda r: r.update(attempt=0)),
    "wrong id": edited(lambda r: r.update(id="0" * 16)),
    "edited text": edited(lambda r: r["steps"][0].update(text=r["steps"][0]["text"] + " Really.")),
    "edited state": edited(lambda r: r["scenario"]["state"].update(number=-1)),
    "steps swapped": edited(lambda r: r["steps"].reverse()),
    "step number missing": edited(lambda r: r["steps"][-1].update(index=99)),
    "step title unknown": edited(lambda r: r["steps"][1].update(title="dance")),
    "no verdict": edited(lambda r: r.update(verdict=None)),
    "verdict not passed": edited(lambda r: r["verdict"].update(passed=False)),
    "another model type": edited(lambda r: r["scenario"].update(model_type="poetry")),
    "moved to the test split": edited(lambda r: r["scenario"].update(split="test")),
    "another scenario's prompt": edited(lambda r: r["scenario"].update(prompt=r["scenario"]["prompt"] + " Now.")),
    "control character": reworded(lambda rng, text: f"{text}\x1b[2J"),
    "bidirectional override": saying("the \u202esexton", "\u2066the widow\u2069"),
    "zero-width space": saying("the wi\u200bdow", "\ufeffthe widow"),
    "hidden tags": saying("\U000e0069\U000e0067\U000e006e"),
    "failed decoding": saying("the M\ufffdller"),
    "past the token budget": reworded(lambda rng, text: f"{text} {passage(rng, 150)}"),
    "another language": lambda rng, raw: _german(raw),
    "e-mail address": saying("anna.keller@example.com", "o'brien+news@mail.example.org"),
    "phone number": saying("+49 30 901820", "+44 20 7946 0958", "(212) 736-5000"),
    "card number": saying("4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"),
    "bank account": saying("DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32"),
    "IP address": saying("192.168.17.4", "2001:db8:85a3::8a2e:370:7334"),
    "social security number": saying("536-22-1874"),
    "wallet": saying("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    "cloud key": saying("AKIAIOSFODNN7EXAMPLE"),
    "API key": saying("sk-proj-abcdefghij0123456789", "ghp_" + "a1B2" * 9),
    "private key": saying("-----BEGIN RSA PRIVATE KEY-----"),
    "password": saying("password: hunter2hunter2", "postgres://owner:s3cret99@db"),
    "answer in the prompt": lambda rng, raw: _planted("answer_in_prompt", rng, raw),
}


def _german(raw: bytes) -> bytes:
    sound = Trajectory.model_validate_json(raw)
    corpus = Corpus.of(sound.scenario.model_type)
    return corpus.answered(sound.scenario, [GERMAN] * len(sound.steps)).model_dump_json().encode()


def _planted(name: str, rng: random.Random, raw: bytes) -> bytes:
    sound = Trajectory.model_validate_json(raw)
    found = PLANTS[name](Corpus.of(sound.scenario.model_type), rng, sound, [])
    return (found if isinstance(found, str) else found.model_dump_json()).encode()


def joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def zstd(lines: list[bytes]) -> bytes:
    import zstandard

    return zstandard.compress(joined(lines))


def parquet(lines: list[bytes], column: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({column: [line.decode() for line in lines]}), buffer)
    return buffer.getvalue()


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) // 2, len(content) - 9)]


def _flipped(content: bytes) -> bytes:
    """The checksum's first byte changed."""
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


FILES: dict[str, File] = {
    "last line cut": lambda rng, lines: (".jsonl", joined(lines) + lines[0][: rng.randrange(1, len(lines[0]))]),
    "gzip cut": lambda rng, lines: (".jsonl.gz", _cut(rng, gzip.compress(joined(lines), mtime=0))),
    "gzip checksum": lambda rng, lines: (".jsonl.gz", _flipped(gzip.compress(joined(lines), mtime=0))),
    "gzip bomb": lambda rng, lines: (".jsonl.gz", gzip.compress(joined(lines) + b" " * 30_000_000, mtime=0)),
    "no gzip": lambda rng, lines: (".jsonl.gz", joined(lines)),
    "zstd cut": lambda rng, lines: (".jsonl.zst", _cut(rng, zstd(lines))),
    "no zstd": lambda rng, lines: (".jsonl.zst", joined(lines)),
    "Parquet cut": lambda rng, lines: (".parquet", _cut(rng, parquet(lines, "record"))),
    "Parquet of other columns": lambda rng, lines: (".parquet", parquet(lines, "text")),
    "no Parquet": lambda rng, lines: (".parquet", joined(lines)),
}
