import torch

from omni_diffusion.diffusion.guidance import join


def test_scale_zero_is_the_conditional_branch_and_one_doubles_the_difference() -> None:
    conditional, unconditional = torch.randn(4, 9), torch.randn(4, 9)
    torch.testing.assert_close(join(conditional, unconditional, 0.0), conditional)
    torch.testing.assert_close(
        join(conditional, unconditional, 1.0), 2 * conditional - unconditional
    )


def test_each_place_may_have_its_own_scale() -> None:
    conditional, unconditional = torch.randn(2, 9), torch.randn(2, 9)
    joined = join(conditional, unconditional, torch.tensor([[0.0], [2.0]]))
    torch.testing.assert_close(joined[0], conditional[0])
    torch.testing.assert_close(joined[1], join(conditional, unconditional, 2.0)[1])
