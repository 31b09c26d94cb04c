"""The rival in its own process: `transformers` `generate` on the whole model, asked line by line through pipes.

    python tests/bench/baseline.py FOLDER DTYPE THREADS

Reads JSON lines {"prompt_ids": [...], "max_new_tokens": n}; answers {"token_ids", "prefill_s", "decode_s"} per line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Baseline:
    """Starts the rival and asks it. A context manager: its process ends with the block."""

    def __init__(self, folder: str, dtype: str, threads: int) -> None:
        command = [sys.executable, __file__, folder, dtype, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def generate(self, prompt_ids: list[int], max_new_tokens: int) -> dict[str, Any]:
        """Greedy. `prefill_s` is the time to the first token, `decode_s` that of all later ones."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps({"prompt_ids": prompt_ids, "max_new_tokens": max_new_tokens}),
            file=self._process.stdin,
            flush=True,
        )
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Baseline:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(folder: Path, dtype: str, threads: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        """Notes when each token comes; the first call brings the prompt."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        ids = torch.tensor([request["prompt_ids"]])
        clock = Clock()
        start = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request["max_new_tokens"],
                do_sample=False,
                streamer=clock,
                pad_token_id=0,
            )
        answer = {
            "token_ids": output[0, ids.shape[1] :].tolist(),
            "prefill_s": clock.times[1] - start,
            "decode_s": clock.times[-1] - clock.times[1],
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
