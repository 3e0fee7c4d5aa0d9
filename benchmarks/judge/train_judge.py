"""Train the frozen judge: `python -m benchmarks.judge.train_judge --data DIR` (about 8 minutes on one slow core).

Kept so that anyone can see where the weights come from.  The committed file is not to be replaced: every number that
quotes the judge would change with it.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.judge.judge import WEIGHTS, JudgeNet, embed, read_idx, scale
from fromnoise.evaluate.distance import Moments

SEED, EPOCHS, BATCH, PEAK_LR, WEIGHT_DECAY = 0, 6, 128, 2e-3, 5e-2


def train(images: Tensor, labels: Tensor, epochs: int) -> JudgeNet:
    """Plain cross-entropy, no augmentation: the judge must not learn to overlook shifts, noise or blur."""
    torch.manual_seed(SEED)
    net = JudgeNet().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (a third faster)
    steps = epochs * (len(images) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        order = torch.randperm(len(images))[: len(images) // BATCH * BATCH]
        for part in order.split(BATCH):
            loss = F.cross_entropy(net(scale(images[part])), labels[part], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}  loss of the last batch {loss.item():.3f}", flush=True)
    return net.eval()


@torch.no_grad()
def accuracy(net: JudgeNet, images: Tensor, labels: Tensor) -> float:
    right = [net(scale(x)).argmax(1) == y for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return torch.cat(right).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the frozen judge of Fashion-MNIST.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(read_idx(options.data, name))
        for name in ("train-images", "train-labels", "t10k-images", "t10k-labels")
    )
    net = train(x_train, y_train.long(), options.epochs)
    reached = accuracy(net, x_test, y_test.long())
    stats = Moments.of(embed(net, x_train.numpy()))
    facts = {
        "data": "Fashion-MNIST (MIT licence), 60,000 training images",
        "test_accuracy": reached,
        "seed": SEED,
        "epochs": options.epochs,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {"train.mean": stats.mean, "train.cov": stats.cov}
    save_file(tensors, options.out, metadata={"judge": json.dumps(facts)})
    print(f"test accuracy {reached:.4f}, {options.out.stat().st_size / 1e6:.2f} MB in {options.out}")


if __name__ == "__main__":
    main()
