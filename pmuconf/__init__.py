"""PMU off by default for KVM guests: policy, rewrite, audit, change and roll back."""

__version__ = "0.1.0"
