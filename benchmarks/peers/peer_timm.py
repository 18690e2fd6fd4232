"""timm and a loop written by hand: a frozen base runs over every image in every epoch."""

from __future__ import annotations

from report import copy_in_order, read_arguments, report

args = read_arguments()
EPOCHS = 2

# user code
import timm  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import Compose, Normalize, Resize, ToTensor  # noqa: E402

look = Compose([Resize((224, 224)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
training = ImageFolder(args.data / "train", look)
batches = DataLoader(training, batch_size=32, shuffle=True, num_workers=2)
unseen = DataLoader(ImageFolder(args.data / "validation", look), batch_size=32, num_workers=2)
base = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
copy_in_order(args.weights, base)
base.eval().requires_grad_(False)
head = torch.nn.Linear(1280, len(training.classes))
optimizer = torch.optim.Adam(head.parameters(), lr=0.003)
best, epochs = 0.0, []
for _ in range(EPOCHS):
    begun = args.clock()
    for images, labels in batches:
        loss = torch.nn.functional.cross_entropy(head(base(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    epochs.append(args.clock() - begun)
    with torch.no_grad():
        right = [(head(base(x)).argmax(1) == y).sum().item() for x, y in unseen]
    best = max(best, sum(right) / len(unseen.dataset))
# end

report(
    "timm, by hand",
    seconds=args.clock(),
    epoch_s=min(epochs),
    images=len(training),
    validation=best,
    weights="the same",
    what=f"{EPOCHS} epochs, frozen",
)
