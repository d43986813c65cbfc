use crate::fixtures::{assert_close, config, configs, ids, model, values};
use crate::reference::Reference;
use model::{Family, ModelConfig, Transformer};
use tch::{Kind, Tensor};

/// Hidden states and logits are the reference's, for every row of a right-padded batch, in every family, tied and untied, and
/// for one key head for all queries, for some and for each.
#[test]
fn agrees_with_the_float64_reference() {
    for config in configs() {
        let model = model(config, 5);
        let reference = Reference::of(&model);
        let rows = [ids(1, 21, model.config()), ids(2, 4, model.config()), ids(3, 1, model.config())];
        let _guard = tch::no_grad_guard();
        let hidden = model.hidden(&model.right_padded(&rows).unwrap()).unwrap();
        assert_eq!(hidden.size(), [3, 21, 24]);
        for (b, row) in rows.iter().enumerate() {
            let found = hidden.get(b as i64).narrow(0, 0, row.len() as i64);
            assert_close(&values(&found), &reference.hidden(row).concat(), 1e-4);
            let logprobs = model.logits(&found).unwrap().log_softmax(-1, Kind::Float);
            assert_close(&values(&logprobs), &reference.logprobs(row, 1.0).concat(), 1e-4);
        }
    }
}

/// Neither the forward pass nor the gradients of a row know what pads it.
#[test]
fn padding_changes_nothing() {
    let model = model(config(true), 7);
    let (long, short) = (ids(1, 12, model.config()), ids(2, 5, model.config()));
    let gradients = |batch: &Tensor, row: i64| {
        model.parameters().into_iter().for_each(|(_, mut p)| p.zero_grad());
        let hidden = model.hidden(batch).unwrap().get(row).narrow(0, 0, 5);
        hidden.square().sum(Kind::Float).backward();
        model.parameters().into_iter().flat_map(|(_, p)| values(&p.grad())).map(f64::from).collect::<Vec<_>>()
    };
    let alone = gradients(&model.right_padded(&[&short]).unwrap(), 0);
    let padded: Vec<f32> =
        gradients(&model.right_padded(&[&long, &short]).unwrap(), 1).into_iter().map(|x| x as f32).collect();
    let scale = alone.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
    assert!(scale > 1e-2);
    assert_close(&padded, &alone, 1e-5 * scale);
}

/// Autograd's slope along a random direction is the slope of the float64 reference.
#[test]
fn gradients_are_the_slopes_of_the_reference() {
    let llama = ModelConfig { family: Family::Llama, attention_bias: true, mlp_bias: true, ..config(false) };
    for config in [config(false), llama] {
        assert_slopes(&model(config, 8));
    }
}

fn assert_slopes(model: &Transformer) {
    let row = ids(3, 6, model.config());
    let loss = |m: &Transformer| -> f64 { Reference::of(m).hidden(&row).iter().flatten().map(|x| x * x * x).sum() };
    model.hidden(&model.right_padded(&[&row]).unwrap()).unwrap().pow_tensor_scalar(3).sum(Kind::Float).backward();
    // Steps are exact in float32 terms only up to its rounding, so they are not too small.
    for (name, mut parameter) in model.parameters() {
        if name == "lm_head.weight" {
            continue;
        }
        let gradient = parameter.grad().copy();
        let size = gradient.square().sum(Kind::Double).sqrt().double_value(&[]);
        let step = 2e-3;
        let direction = gradient / size;
        let _guard = tch::no_grad_guard();
        let _ = parameter.f_add_(&(&direction * step)).unwrap();
        let above = loss(model);
        let _ = parameter.f_sub_(&(&direction * (2.0 * step))).unwrap();
        let below = loss(model);
        let _ = parameter.f_add_(&(&direction * step)).unwrap();
        let slope = (above - below) / (2.0 * step);
        assert!((slope - size).abs() < 0.01 * size, "{name}: slope {slope}, gradient {size}");
    }
}

#[test]
fn ids_and_lengths_out_of_range_are_errors() {
    let model = model(config(true), 9);
    for bad in [-1, 37, 39, 40] {
        let error = model.right_padded(&[vec![3], vec![4, bad]]).unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains(&format!("token id {bad}")), "{error}");
    }
    let error = model.right_padded(&[vec![3; 97]]).unwrap_err().to_string();
    assert!(error.contains("97 tokens") && error.contains("context of 96"), "{error}");
    assert!(model.hidden(&Tensor::zeros([1, 97], (Kind::Int64, model.device()))).is_err());
    assert!(model.hidden(&Tensor::zeros([3], (Kind::Int64, model.device()))).is_err());
    assert!(model.hidden(&Tensor::full([1, 2], 40, (Kind::Int64, model.device()))).is_err());
}
