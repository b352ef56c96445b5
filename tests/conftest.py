"""What every test needs: silent progress bars and properties that try the same examples on every run."""

import os

os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
os.environ["SAVAE_LITE_CLAIMS"] = "raise"  # kernels started by nbval inherit it

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("same")
