"""The trait in the provider tree: it comes, it goes, and it never stands in the inventory's way."""

from __future__ import annotations

from unittest import mock

from nova.compute import provider_tree
from nova.virt.libvirt import driver as libvirt_driver
from pmuconf_nova import trait

from tests.nova.generator import UUID, Generator


class TestTrait(Generator):
    def updated(self, tree: provider_tree.ProviderTree) -> bool:
        with mock.patch.object(libvirt_driver.LibvirtDriver, "update_provider_tree") as stock:
            self.driver.update_provider_tree(tree, "node")
        stock.assert_called_once_with(tree, "node", allocations=None)
        return bool(tree.has_traits("node", [trait.TRAIT]))

    def test_it_comes_and_goes_and_leaves_the_others(self) -> None:
        tree = provider_tree.ProviderTree()
        tree.new_root("node", UUID)
        tree.update_traits("node", ["CUSTOM_OTHER"])
        for says in (False, True, True, False, False):
            with mock.patch.object(trait, "delivers", return_value=says):
                assert self.updated(tree) is says
            assert tree.has_traits("node", ["CUSTOM_OTHER"])

    def test_a_host_that_does_not_use_kvm_never_has_it(self) -> None:
        self.flags(virt_type="qemu", group="libvirt")
        tree = provider_tree.ProviderTree()
        tree.new_root("node", UUID)
        tree.update_traits("node", [trait.TRAIT])
        with mock.patch.object(trait, "delivers", return_value=True):
            assert not self.updated(tree)

    def test_an_error_is_counted_and_passed_over_with_strict_too(self) -> None:
        self.flags(strict=True, group="pmuconf")
        tree = provider_tree.ProviderTree()
        tree.new_root("node", UUID)
        with mock.patch.object(trait, "delivers", side_effect=RuntimeError("broken")):
            assert not self.updated(tree)
        assert self.driver._pmuconf_trait_failures.counts == {"RuntimeError": 1}

    def test_what_cant_be_found_out_is_no_yes(self) -> None:
        """An error takes away the trait that the host had."""
        tree = provider_tree.ProviderTree()
        tree.new_root("node", UUID)
        with mock.patch.object(trait, "delivers", return_value=True):
            assert self.updated(tree)
        with mock.patch.object(trait, "delivers", side_effect=RuntimeError("broken")):
            assert not self.updated(tree)
            assert not self.updated(tree)
        assert self.driver._pmuconf_trait_failures.counts == {"RuntimeError": 2}
        with mock.patch.object(trait, "delivers", return_value=True):
            assert self.updated(tree)
        assert not self.driver._pmuconf_trait_failures.counts
