//! A function of one row, as DataFusion sees it.

use crate::QueryError;
use arrow::{
    array::ArrayRef,
    datatypes::{DataType, Field},
};
use datafusion::{
    common::plan_err,
    error::Result,
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility},
};
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A list of floats.
    Floats,
    /// A list of integers.
    Ints,
    /// A whole number.
    Count,
    /// A float.
    Real,
}

impl Kind {
    /// The type that an argument of type `given` is turned into, if it can be.
    fn takes(self, given: &DataType) -> Option<DataType> {
        use DataType::{FixedSizeList, Float32, Float64, Int32, Int64, LargeList, List, Null};
        let list = |item: DataType| List(Arc::new(Field::new("item", item, true)));
        match (self, given) {
            // What `least` makes of a bigint and a length is a decimal.
            (Kind::Count, number) if number.is_numeric() || *number == Null => Some(Int64),
            (Kind::Real, number) if number.is_numeric() || *number == Null => Some(Float64),
            (Kind::Floats, List(item)) if matches!(item.data_type(), Float32 | Float64) => Some(given.clone()),
            (Kind::Ints, List(item)) if matches!(item.data_type(), Int32 | Int64) => Some(given.clone()),
            (Kind::Floats, List(item) | LargeList(item) | FixedSizeList(item, _))
                if item.data_type().is_numeric() || *item.data_type() == Null =>
            {
                Some(list(Float64))
            }
            (Kind::Ints, List(item) | LargeList(item) | FixedSizeList(item, _))
                if item.data_type().is_integer() || *item.data_type() == Null =>
            {
                Some(list(Int64))
            }
            (Kind::Floats, Null) => Some(list(Float64)),
            (Kind::Ints, Null) => Some(list(Int64)),
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Floats => "a list of floats",
            Kind::Ints => "a list of integers",
            Kind::Count => "a count",
            Kind::Real => "a number",
        }
    }
}

/// What a function computes, from arrays of one length.
type Evaluate = Box<dyn Fn(&[ArrayRef]) -> Result<ArrayRef> + Send + Sync>;

/// A function of one row; its name tells it from others of a session.
pub(super) struct Function {
    name: &'static str,
    kinds: Vec<Kind>,
    returns: DataType,
    evaluate: Evaluate,
    lacks: Option<String>,
    signature: Signature,
}

impl Function {
    pub fn new(name: &'static str, kinds: &[Kind], returns: DataType, evaluate: Evaluate) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { name, kinds: kinds.to_vec(), returns, evaluate, lacks: None, signature }
    }

    /// The same, refused where the store lacks what it needs; `lacks` says what that is.
    pub fn lacking(self, lacks: Option<String>) -> Self {
        Self { lacks, ..self }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let call = super::FUNCTIONS.iter().find(|(call, _)| call.starts_with(&format!("{}(", self.name)));
        let call = call.map_or(self.name, |(call, _)| call);
        if given.len() != self.kinds.len() {
            return plan_err!("expected `{call}`, found {} arguments", given.len());
        }
        let mut taken = Vec::new();
        for (i, (kind, given)) in self.kinds.iter().zip(given).enumerate() {
            let Some(one) = kind.takes(given) else {
                return plan_err!(
                    "argument {} of `{call}`: expected {}, found {given}; `tokens` has one row a position",
                    i + 1,
                    kind.words()
                );
            };
            taken.push(one);
        }
        Ok(taken)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // Not when it is planned: a view may use it that nobody asks for.
        if let Some(lacks) = &self.lacks {
            return Err(QueryError::Lacks { function: self.name, lacks: lacks.clone() }.into());
        }
        let arrays = args.args.iter().map(|value| value.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array((self.evaluate)(&arrays)?))
    }
}
