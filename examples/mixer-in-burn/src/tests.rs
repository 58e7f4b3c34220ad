//! The echo learns, and step by step it says what it says of a whole window.

use super::*;

#[test]
fn it_learns_and_steps_with_its_state() {
    let device = Device::flex();
    device.seed(1);
    let (model, loss) = train(150, &device.clone().autodiff());
    // A uniform signal on [-1, 1] has a mean square of 1/3.
    assert!(loss < 0.05, "{loss}");

    let model = model.valid();
    let x = Tensor::<3>::random([1, 12, 1], Distribution::Uniform(-1.0, 1.0), &device);
    let (whole, after) = model.forward(x.clone(), None);
    let (mut state, mut said) = (None, Vec::new());
    for t in 0..12 {
        let (y, next) = model.step(x.clone().narrow(1, t, 1).reshape([1, 1]), state);
        state = Some(next);
        said.push(y.reshape([1, 1, 1]));
    }
    let difference = (Tensor::cat(said, 1) - whole.clone()).abs().max();
    assert!(difference.into_scalar::<f32>() < 1e-4);
    assert_eq!(state.unwrap().position, after.position);
    let echo = (whole.narrow(1, 3, 9) - x.narrow(1, 0, 9)).abs().mean();
    assert!(echo.into_scalar::<f32>() < 0.4);
}
