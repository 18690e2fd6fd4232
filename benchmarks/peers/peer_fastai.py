"""fastai: its own recipe, `fine_tune`, an epoch frozen and an epoch of everything."""

from __future__ import annotations

from report import copy_in_order, read_arguments, report

args = read_arguments()

# user code
import timm  # noqa: E402, F401
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, vision_learner  # noqa: E402

loaders = ImageDataLoaders.from_folder(
    args.data, train="train", valid="validation", item_tfms=Resize(224, method="squish"), bs=32
)
learner = vision_learner(loaders, "tf_efficientnet_lite0", pretrained=False, metrics=accuracy)
copy_in_order(args.weights, learner.model[0])
learner.freeze()
frozen = args.clock()
learner.fit_one_cycle(1)
first = args.clock()
learner.unfreeze()
learner.fit_one_cycle(1, 1e-4)
# end

report(
    "fastai",
    seconds=args.clock(),
    epoch_s=first - frozen,
    images=len(loaders.train_ds),
    validation=float(learner.recorder.values[-1][-1]),
    weights="the same",
    what="1 epoch frozen (images/s), then 1 of everything",
)
