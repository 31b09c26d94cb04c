"""What the codecs of hidden states lose, by where the model is cut: the tables of docs/wire.md.

    python tests/bench/bench_wire.py [--model M] [--dtype float32] [--tokens 2000] [--cuts 1,2,3]
                                     [--text FILE ...] [--json FILE]

The same texts are scored through a ring of local devices in every codec: perplexity, and how often the most likely
token is the one that it is where nothing is rounded on the way. Then what one core takes to encode and to decode.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from shardnet import Cluster, Scores
from shardnet.cluster.model import Model
from shardnet.codecs.names import CODECS, row_bytes
from shardnet.codecs.rows import codec_named, decoded
from shardnet.loader import open_model
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import silent

ROOT = Path(__file__).parents[2]
TEXT = ROOT / "configs" / "texts" / "the_ferry_clock.txt"
"""The one that comes with shardnet: English, and code."""
HIDDEN_SIZES = (576, 2048, 4096)
NUM_TIMED = 30


def scored(model: Model, texts: list[list[int]]) -> list[Scores]:
    return [model.score(text) for text in texts]


def perplexity(scores: list[Scores]) -> float:
    likelihoods = [each for one in scores for each in one.log_likelihoods]
    return math.exp(-math.fsum(likelihoods) / len(likelihoods))


def agreement(scores: list[Scores], exact: list[Scores]) -> float:
    pairs = [
        pair
        for one, other in zip(scores, exact, strict=True)
        for pair in zip(one.likeliest, other.likeliest, strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


def even_split(num_units: int, num_devices: int) -> list[int]:
    ends = [num_units * (index + 1) // num_devices for index in range(num_devices)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def losses(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of each number of cuts and codec. The model's own dtype is what the others are compared with."""
    rows = []
    texts = [Path(name).read_text(encoding="utf-8") for name in options.text or [TEXT]]
    names = [options.dtype, *(name for name in CODECS if name != options.dtype)]
    for num_cuts in options.cuts:
        with Cluster.local(num_devices=num_cuts + 1, threads_per_device=1) as cluster:
            exact: list[Scores] = []
            files = open_model(options.model, options.dtype, cache_dir=cache_folder(None), progress=silent)
            split = even_split(files.profile.num_units, num_cuts + 1)
            for codec in names:
                with cluster.load(files, dtype=options.dtype, wire=codec, split=split, standby="none") as model:
                    most = options.tokens // len(texts)
                    scores = scored(model, [model.encode(text)[:most] for text in texts])
                    stages = [stage.units for stage in model.plan.stages]
                exact = exact or scores
                rows.append(
                    {
                        "cuts": num_cuts,
                        "stages": stages,
                        "codec": codec,
                        "perplexity": perplexity(scores),
                        "change": perplexity(scores) / perplexity(exact) - 1,
                        "agreement": agreement(scores, exact),
                    }
                )
                print(loss_row(rows[-1]), flush=True)
    return rows


def loss_row(row: dict[str, Any]) -> str:
    cells = [row["cuts"], f"`{row['codec']}`", f"{row['perplexity']:.4f}", f"{row['change']:+.3%}"]
    return f"| {' | '.join(map(str, cells))} | {row['agreement']:.2%} |"


def times() -> list[dict[str, Any]]:
    """Seconds of one core, the least of many: nothing else is to be counted."""
    torch.set_num_threads(1)
    rows = []
    for hidden_size in HIDDEN_SIZES:
        for name in CODECS:
            row: dict[str, Any] = {"hidden": hidden_size, "codec": name, "bytes": row_bytes(name, hidden_size)}
            for num_tokens in (1, 128):
                hidden = torch.randn(num_tokens, hidden_size).bfloat16()
                row[f"encode_{num_tokens}_s"], row[f"decode_{num_tokens}_s"] = timed(name, hidden)
            rows.append(row)
    return rows


def timed(name: str, hidden: torch.Tensor) -> tuple[float, float]:
    encode_s = decode_s = math.inf
    for _ in range(NUM_TIMED):
        start_s = time.perf_counter()
        rows = codec_named(name).encode(hidden)
        between_s = time.perf_counter()
        decoded(rows, hidden.shape[1], torch.bfloat16)
        encode_s, decode_s = min(encode_s, between_s - start_s), min(decode_s, time.perf_counter() - between_s)
    return encode_s, decode_s


def time_row(row: dict[str, Any]) -> str:
    keys = ("encode_1_s", "decode_1_s", "encode_128_s", "decode_128_s")
    cells = [row["hidden"], f"`{row['codec']}`", row["bytes"], *(f"{row[key] * 1e6:.0f}" for key in keys)]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32", help="in which it computes")
    parser.add_argument("--tokens", type=int, default=2000, help="of all texts, at most")
    parser.add_argument("--cuts", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--text", action="append", help="a file to score; may be given several times")
    parser.add_argument("--json", help="write the figures there")
    options = parser.parse_args()
    print("| cuts | codec | perplexity | change | same most likely token |\n|--:|---|--:|--:|--:|")
    figures: dict[str, Any] = {"losses": losses(options), "times": times()}
    print("\n| hidden | codec | bytes | 1 token: encode, us | decode | 128 tokens: encode, us | decode |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for row in figures["times"]:
        print(time_row(row))
    if options.json:
        about = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
        Path(options.json).write_text(json.dumps({"about": about, **figures}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
