"""The Nova compute plugin of pmuconf: PMU off by default for every VM that Nova builds."""

__version__ = "0.1.0"
