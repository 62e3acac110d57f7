//! Building graphs by hand.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Op;
use mainstem_catalog::RelationId;
use mainstem_sql::graph::GRAPH_VERSION;
use mainstem_sql::{
    Aggregate, AggregateFunction, Frame, FrameBound, FrameUnits, Graph, GraphField, JoinKind, Literal, Nearest, Node,
    Operator, OperatorId, Scalar, SortKey, WindowFunction,
};

use super::tables;

#[derive(Debug)]
pub(crate) struct GraphBuilder {
    pub(crate) nodes: Vec<Node>,
}

pub(crate) type Types = Vec<DataType>;

pub(crate) fn column(index: usize) -> Scalar {
    Scalar::Column(index)
}

pub(crate) fn literal(value: ScalarValue) -> Scalar {
    Scalar::Literal(Literal::from_value(&value).unwrap())
}

pub(crate) fn number(value: i64) -> Scalar {
    literal(ScalarValue::Int64(Some(value)))
}

pub(crate) fn binary(left: Scalar, op: Op, right: Scalar) -> Scalar {
    Scalar::Binary { op, left: Box::new(left), right: Box::new(right) }
}

pub(crate) fn cast(argument: Scalar, to: &DataType) -> Scalar {
    Scalar::Cast { to: to.to_string(), is_try: false, argument: Box::new(argument) }
}

pub(crate) fn aggregate(function: AggregateFunction, argument: Option<Scalar>, result: DataType) -> Aggregate {
    let arguments = argument.into_iter().collect();
    Aggregate::new(function, arguments, result.to_string())
}

pub(crate) fn ascending(index: usize) -> SortKey {
    SortKey { expression: column(index), descending: false, nulls_first: false }
}

impl GraphBuilder {
    pub(crate) fn new() -> GraphBuilder {
        GraphBuilder { nodes: Vec::new() }
    }

    pub(crate) fn types(&self, id: OperatorId) -> Types {
        let fields = &self.nodes[id.0 as usize].schema;
        fields.iter().map(|field| field.data_type.parse().unwrap()).collect()
    }

    pub(crate) fn add(&mut self, operator: Operator, inputs: Vec<OperatorId>, types: &[DataType]) -> OperatorId {
        let id = OperatorId(self.nodes.len() as u32);
        let field = |(place, data_type): (usize, &DataType)| {
            GraphField::from_arrow(&Field::new(format!("n{}_{place}", id.0), data_type.clone(), true)).unwrap()
        };
        let schema = types.iter().enumerate().map(field).collect();
        self.nodes.push(Node { id, operator, inputs, schema, append_only: false, forgets: vec![] });
        id
    }

    pub(crate) fn input(&mut self, relation: RelationId) -> OperatorId {
        let types: Types = tables::schema().fields().iter().map(|field| field.data_type().clone()).collect();
        self.add(Operator::Input { relation, columns: (0..types.len()).collect() }, Vec::new(), &types)
    }

    pub(crate) fn filter(&mut self, input: OperatorId, predicate: Scalar) -> OperatorId {
        let types = self.types(input);
        self.add(Operator::Filter { predicate }, vec![input], &types)
    }

    pub(crate) fn project(&mut self, input: OperatorId, expressions: Vec<(Scalar, DataType)>) -> OperatorId {
        let (expressions, types): (Vec<_>, Vec<_>) = expressions.into_iter().unzip();
        self.add(Operator::Project { expressions }, vec![input], &types)
    }

    pub(crate) fn columns(&mut self, input: OperatorId, columns: &[usize]) -> OperatorId {
        let types = self.types(input);
        self.project(input, columns.iter().map(|index| (column(*index), types[*index].clone())).collect())
    }

    pub(crate) fn aggregate(&mut self, input: OperatorId, group: &[usize], aggregates: Vec<Aggregate>) -> OperatorId {
        let of_input = self.types(input);
        let mut types: Types = group.iter().map(|index| of_input[*index].clone()).collect();
        types.extend(aggregates.iter().map(|aggregate| aggregate.result.parse::<DataType>().unwrap()));
        let group = group.iter().map(|index| column(*index)).collect();
        self.add(Operator::Aggregate { group, aggregates }, vec![input], &types)
    }

    pub(crate) fn join(
        &mut self,
        kind: JoinKind,
        inputs: [OperatorId; 2],
        on: &[(usize, usize)],
        null_equals_null: bool,
        filter: Option<Scalar>,
    ) -> OperatorId {
        let mut types = self.types(inputs[0]);
        if kind.gives_pairs() {
            types.extend(self.types(inputs[1]));
        }
        let on = on.iter().map(|(left, right)| (column(*left), column(*right))).collect();
        self.add(Operator::Join { kind, on, null_equals_null, filter, range: None }, inputs.to_vec(), &types)
    }

    /// Each row of the first input with the latest of the second that is not later; all rows have one key.
    pub(crate) fn as_of(&mut self, inputs: [OperatorId; 2], time: usize) -> OperatorId {
        let types = [self.types(inputs[0]), self.types(inputs[1])].concat();
        let operator = Operator::AsOf {
            is_outer: true,
            on: vec![(number(1), number(1))],
            times: (column(time), column(time)),
            nearest: Nearest::AtOrBefore,
        };
        self.add(operator, inputs.to_vec(), &types)
    }

    pub(crate) fn same_shape(&mut self, operator: Operator, inputs: Vec<OperatorId>) -> OperatorId {
        let types = self.types(inputs[0]);
        self.add(operator, inputs, &types)
    }

    pub(crate) fn top(&mut self, input: OperatorId, keys: Vec<SortKey>, limit: Option<u64>, offset: u64) -> OperatorId {
        self.same_shape(Operator::TopN { keys, limit, offset }, vec![input])
    }

    /// row_number() over all rows.
    pub(crate) fn numbered(&mut self, input: OperatorId, order: Vec<SortKey>, limit: Option<u64>) -> OperatorId {
        let id = self.same_shape(Operator::Distinct, vec![input]);
        let whole = || Literal::from_value(&ScalarValue::UInt64(None)).unwrap();
        let number = WindowFunction {
            name: "row_number".to_owned(),
            arguments: vec![],
            distinct: false,
            ignore_nulls: false,
            filter: None,
            frame: Frame {
                units: FrameUnits::Rows,
                start: FrameBound::Preceding(whole()),
                end: FrameBound::Following(whole()),
            },
            result: DataType::UInt64.to_string(),
        };
        let node = &mut self.nodes[id.0 as usize];
        node.operator = Operator::Over { partition: vec![], order, functions: vec![number], limit };
        let number = Field::new("number", DataType::UInt64, true);
        node.schema.push(GraphField::from_arrow(&number).unwrap());
        id
    }

    pub(crate) fn build(self) -> Graph {
        let output = OperatorId(self.nodes.len() as u32 - 1);
        let graph = Graph { version: GRAPH_VERSION, nodes: self.nodes, output, settings: BTreeMap::new() };
        graph.check().unwrap();
        graph
    }
}
