"""Compared with classes that do inherit from scikit-learn's."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from pictures import COLOURS, encode, picture
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    TransformerMixin,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

import topwork

MIXINS = {topwork.Classifier: ClassifierMixin, topwork.Regressor: RegressorMixin}
METHODS = ("__init__", "fit", "predict", "predict_proba", "score")
SMALL = {"image_size": 32, "epochs": 5, "learning_rate": 0.01, "precision": "f32"}
# None, one, some that fill a line to its last column and to one more, and many.
ARGUMENTS = [
    {},
    {"seed": 3, "epochs": 10},
    *({"seed": 3, "weights": "w" * length, "views": 2} for length in range(38, 46)),
    {"base": "xception", "weights": "/data/" + "w" * 90, "strict": True, "views": 2},
    SMALL | {"optimizer": "sgd", "class_weight": "balanced", "weight_decay": 0.1, "store": "kept"},
]


@pytest.fixture(scope="module")
def images():
    """Pictures of three colours, encoded, and their labels."""
    pictures = [encode(picture(c, seed=n)) for n in range(8) for c in COLOURS.values()]
    return pictures, [*COLOURS] * 8


@pytest.fixture
def routed():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def inherit(kind, **arguments):
    """Returns the same estimator with scikit-learn's own base classes."""
    own = {name: getattr(kind, name) for name in METHODS if hasattr(kind, name)}
    return type(kind.__name__, (MIXINS[kind], BaseEstimator), own)(**arguments)


def make(**changes):
    return topwork.Classifier(**SMALL | changes)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("kind", MIXINS)
def test_parameters_and_their_text_are_those_of_scikit_learn(kind, arguments):
    mine, real = kind(**arguments), inherit(kind, **arguments)
    assert list(mine.get_params().items()) == list(real.get_params().items())
    assert repr(mine) == repr(real)
    assert repr(make_pipeline(kind(seed=3))) == repr(make_pipeline(inherit(kind, seed=3)))


def test_all_parameters_are_shown_where_scikit_learn_is_told_so():
    with sklearn.config_context(print_changed_only=False):
        mine, real = repr(topwork.Classifier()), repr(inherit(topwork.Classifier))
        # It leaves out the middle of a long text.
        start, *_ = real.split("...")
        assert len(start) > 300 and mine.startswith(start) and mine.endswith("weights=None)")


def test_an_unknown_parameter_is_refused_as_by_scikit_learn():
    messages = []
    for one in (topwork.Classifier(seed=3), inherit(topwork.Classifier, seed=3)):
        with pytest.raises(ValueError, match="epoch") as caught:
            one.set_params(seed=4, epoch=3)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_parameters_of_a_parameter_are_read_and_set():
    class Outer(topwork.Classifier):
        def __init__(self, inner=None):
            self.inner = inner

    outer = Outer(topwork.Regressor(seed=3))
    assert outer.get_params()["inner__seed"] == 3
    assert [*outer.get_params(deep=False)] == ["inner"]
    assert outer.set_params(inner__seed=4).inner.seed == 4
    pipeline = make_pipeline(topwork.Classifier()).set_params(classifier__seed=5)
    assert pipeline[-1].seed == 5


@pytest.mark.parametrize("kind", MIXINS)
def test_tags_are_those_of_scikit_learn(kind):
    assert get_tags(kind()) == get_tags(inherit(kind))
    assert is_classifier(kind()) is (kind is topwork.Classifier)
    assert is_regressor(kind()) is (kind is topwork.Regressor)
    assert not isinstance(kind(), BaseEstimator)


def test_a_subclass_may_add_to_the_tags_and_the_metadata():
    class Features(TransformerMixin, topwork.Classifier):
        def transform(self, X, layer=None):
            return X

    tags = get_tags(Features())
    assert tags.classifier_tags is not None and tags.transformer_tags is not None
    assert Features().get_metadata_routing().transform.requests == {"layer": None}


@pytest.mark.parametrize("kind", MIXINS)
def test_metadata_are_requested_as_of_scikit_learn(kind, routed):
    mine, real = kind(), inherit(kind)
    assert str(mine.get_metadata_routing()) == str(real.get_metadata_routing())
    for one in (mine, real):
        assert one.set_fit_request(sample_weight=True).set_score_request(sample_weight="w") is one
        with pytest.raises(TypeError, match=r"Unexpected args.*weight"):
            one.set_fit_request(weight=True)
    expected = str(real.get_metadata_routing())
    assert "True" in expected
    for one in (mine, clone(mine), copy.deepcopy(mine), pickle.loads(pickle.dumps(mine))):
        assert str(one.get_metadata_routing()) == expected
    for name in ("set_predict_request", "set_predict_proba_request", "set_transform_request"):
        assert hasattr(mine, name) is hasattr(real, name)
    assert inspect.signature(mine.set_fit_request).parameters.keys() == {"self", "sample_weight"}


def test_weights_reach_fit_through_a_search(images, routed):
    pictures, labels = images
    weights = np.ones(len(labels))
    search = GridSearchCV(make(), {"seed": [1, 2]}, cv=2)
    with pytest.raises(ValueError, match=r"Classifier\.set_fit_request"):
        search.fit(pictures, labels, sample_weight=weights)
    taken = make().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(taken, {"seed": [1, 2]}, cv=2)
    assert search.fit(pictures, labels, sample_weight=weights).best_params_["seed"] in (1, 2)
    with pytest.raises(topwork.DatasetError, match="weight"):
        taken.fit(pictures, labels, sample_weight=-weights)


def test_a_notebook_shows_the_diagram():
    mine = topwork.Classifier(seed=3)
    shown = mine._repr_mimebundle_()
    assert shown["text/plain"] == "Classifier(seed=3)"
    expected = inherit(topwork.Classifier)._repr_html_().count("learning_rate")
    assert expected > 0
    for page in (shown["text/html"], mine._repr_html_(), make_pipeline(mine)._repr_html_()):
        assert page.count("learning_rate") == expected
    with sklearn.config_context(display="text"):
        assert not hasattr(mine, "_repr_html_")
        assert mine._repr_mimebundle_().keys() == {"text/plain"}


def test_what_is_missing_is_named():
    mine = topwork.Classifier()
    for missing, said in {"scores_": "scores_", "_scores": "_scores", "_folder": "model_"}.items():
        with pytest.raises(AttributeError, match=f"'Classifier' object has no attribute '{said}'"):
            getattr(mine, missing)


def test_it_takes_part_in_ensembles(images):
    pictures, labels = images
    assert cross_val_predict(make(), *images, cv=2, method="predict_proba").shape == (24, 3)
    fitted = make().fit(*images)
    check_is_fitted(fitted)
    ensembles = [
        CalibratedClassifierCV(FrozenEstimator(fitted)),
        VotingClassifier([("a", make()), ("b", make(seed=2))], voting="soft"),
        StackingClassifier([("a", fitted)], cv="prefit"),
        make_pipeline(make()),
    ]
    for ensemble in ensembles:
        answers = ensemble.fit(*images).predict(pictures[:6])
        assert answers.shape == (6,) and {*answers} <= {*labels}


@pytest.mark.system
def test_a_loaded_model_is_used_without_scikit_learn(saved, tmp_path):
    path = tmp_path / "new.png"
    path.write_bytes(encode(picture((200, 30, 30))))
    code = f"""
import copy, pickle, sys, topwork
model = topwork.load({str(saved)!r})
assert model.predict([{str(path)!r}]).shape == (1,)
assert model.set_params(seed=7).get_params()["seed"] == 7
assert "seed=7" in repr(copy.deepcopy(pickle.loads(pickle.dumps(model))))
assert not hasattr(model, "transform") and not hasattr(model, "_ipython_display_")
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert not loaded & {{"sklearn", "scipy", "rich", "jax", "keras", "matplotlib"}}, loaded
assert "topwork.recipes.train" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.system
@pytest.mark.parametrize(
    "asked",
    [
        "get_metadata_routing()",
        "set_fit_request",
        "_repr_html_()",
        "_repr_mimebundle_()",
        "__sklearn_tags__()",
    ],
)
def test_what_scikit_learn_answers_imports_it(asked):
    code = "import sys, topwork; one = topwork.Classifier(); assert 'sklearn' not in sys.modules\n"
    code += f"assert one.{asked} and 'sklearn.base' in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
