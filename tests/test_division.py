from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from training.division import divide, shares_of


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for divided in (False, True):
        dice = torch.Generator().manual_seed(0)
        shapes = [(8, 8), (8, 24), (24, 8), (16, 16), (8, 8)]
        matrices = [torch.nn.Parameter(torch.randn(shape, generator=dice)) for shape in shapes]
        muon = torch.optim.Muon(matrices, lr=0.02, momentum=0.95)
        if divided:
            divide(muon)
        for _ in range(4):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=dice)
            matrices[1].grad = None  # nothing flowed to it
            muon.step()  # type: ignore[no-untyped-call]
        momenta = [muon.state[matrix]["momentum_buffer"] for matrix in matrices if muon.state[matrix]]
        found.append([*(matrix.detach() for matrix in matrices), *momenta])
    shares = shares_of(found[0][:5])
    torch.save((found, [sorted(t.numel() for t in share) for share in shares]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_divided_work_gives_every_rank_the_same_bits(tmp_path: Path) -> None:
    spawn(_rank, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    for rank in range(2):
        (whole, divided), shares = torch.load(tmp_path / f"{rank}.pt")
        assert len(whole) == len(divided) == 9
        assert all(torch.equal(x, y) for x, y in zip(whole, divided, strict=True))
        assert sorted(shares) == [[64, 64, 192, 192], [256]]  # as much to do
