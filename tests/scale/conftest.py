"""One small explainer of iris, what it finds, and the folder that it writes when nobody disturbs it."""

import pickle
import warnings

import pytest
from scale_jobs import contents, job, make_explainer, make_image_explainer, rows


@pytest.fixture(scope="session")
def explainer():
    return make_explainer()


@pytest.fixture(scope="session")
def whole(explainer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.explain(rows(), 1)


@pytest.fixture(scope="session")
def explainer_file(explainer, tmp_path_factory):
    path = tmp_path_factory.mktemp("explainer") / "explainer.pickle"
    path.write_bytes(pickle.dumps(explainer))
    return path


@pytest.fixture(scope="session")
def uninterrupted(explainer_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "store"
    job(explainer_file, folder)
    return contents(folder)


@pytest.fixture(scope="session")
def image_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("explainer") / "explainer.pickle"
    path.write_bytes(pickle.dumps(make_image_explainer()))
    return path


@pytest.fixture(scope="session")
def uninterrupted_images(image_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "store"
    job(image_file, folder)
    return contents(folder)
