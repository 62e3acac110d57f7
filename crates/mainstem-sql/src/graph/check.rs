//! The rules that a graph keeps, checked when it is made and when it is read back.

use super::{GRAPH_VERSION, Graph, GraphField, Node, Operator, Scalar, parse_type};

impl Graph {
    /// Checks every rule of this module; the reason names the node.
    pub fn check(&self) -> Result<(), String> {
        if self.version == 0 || self.version > GRAPH_VERSION {
            return Err(format!("version {}", self.version));
        }
        for (place, node) in self.nodes.iter().enumerate() {
            if node.id.0 as usize != place {
                return Err(format!("node {place} has id {}", node.id.0));
            }
            if let Some(input) = node.inputs.iter().find(|input| input.0 as usize >= place) {
                return Err(format!("node {place} comes before its input {}", input.0));
            }
            for field in &node.schema {
                parse_type(&field.data_type).map_err(|error| error.message)?;
            }
            self.check_node(node).map_err(|reason| format!("node {place}: {reason}"))?;
        }
        if self.output.0 as usize >= self.nodes.len() {
            return Err(format!("output {} is not a node", self.output.0));
        }
        Ok(())
    }

    fn check_node(&self, node: &Node) -> Result<(), String> {
        let inputs: Vec<&[GraphField]> = node.inputs.iter().map(|id| self.node(*id).schema.as_slice()).collect();
        let expected_inputs = match &node.operator {
            Operator::Input { .. } | Operator::Constant { .. } => 0,
            Operator::Join { .. } | Operator::AsOf { .. } => 2,
            Operator::Union => inputs.len().max(1),
            _ => 1,
        };
        if inputs.len() != expected_inputs {
            return Err(format!("{} inputs", inputs.len()));
        }
        let places = |forget: &super::Forget| match &node.operator {
            Operator::Aggregate { group, .. } => group.len(),
            Operator::Over { partition, .. } => partition.len(),
            _ => inputs.get(forget.input).map_or(0, |input| input.len()),
        };
        if let Some(forget) = node.forgets.iter().find(|forget| forget.column >= places(forget)) {
            return Err(format!("forgets by column {}", forget.column));
        }
        let width = node.schema.len();
        let over = inputs.first().map_or(0, |input| input.len());
        let same_width = |ok: bool| if ok { Ok(()) } else { Err(format!("{width} output columns")) };
        match &node.operator {
            Operator::Input { columns, .. } => same_width(columns.len() == width),
            Operator::Constant { rows } => same_width(rows.iter().all(|row| row.len() == width)),
            Operator::Filter { predicate } => same_width(over == width).and_then(|()| in_range(predicate, over)),
            Operator::Project { expressions } => {
                same_width(expressions.len() == width)?;
                expressions.iter().try_for_each(|expression| in_range(expression, over))
            }
            Operator::Unnest { column } => same_width(over == width && *column < over),
            Operator::Aggregate { group, aggregates } => {
                same_width(group.len() + aggregates.len() == width)?;
                let arguments = aggregates.iter().flat_map(|aggregate| {
                    let keys = aggregate.order.iter().map(|key| &key.expression);
                    aggregate.arguments.iter().chain(&aggregate.filter).chain(keys)
                });
                group.iter().chain(arguments).try_for_each(|scalar| in_range(scalar, over))
            }
            Operator::Over { partition, order, functions, limit } => {
                same_width(over + functions.len() == width && !functions.is_empty())?;
                if limit.is_some() && functions.iter().any(|function| function.name != "row_number") {
                    return Err("a limit, and functions other than row_number".to_owned());
                }
                let arguments = functions.iter().flat_map(|function| function.arguments.iter().chain(&function.filter));
                let keys = order.iter().map(|key| &key.expression);
                partition.iter().chain(keys).chain(arguments).try_for_each(|scalar| in_range(scalar, over))
            }
            Operator::Join { kind, on, filter, range, .. } => {
                let (left, right) = (over, inputs[1].len());
                if range.is_some_and(|range| range.left >= left || range.right >= right) {
                    return Err("a range over columns that are not there".to_owned());
                }
                same_width(width == if kind.gives_pairs() { left + right } else { left })?;
                for (of_left, of_right) in on {
                    in_range(of_left, left)?;
                    in_range(of_right, right)?;
                }
                filter.iter().try_for_each(|filter| in_range(filter, left + right))
            }
            Operator::AsOf { on, times, .. } => {
                let (left, right) = (over, inputs[1].len());
                same_width(width == left + right && !on.is_empty())?;
                on.iter().chain([times]).try_for_each(|(of_left, of_right)| {
                    in_range(of_left, left)?;
                    in_range(of_right, right)
                })
            }
            Operator::Union => same_width(inputs.iter().all(|input| input.len() == width)),
            Operator::Distinct | Operator::DropLate {} => same_width(over == width),
            Operator::TopN { keys, .. } => {
                same_width(over == width)?;
                keys.iter().try_for_each(|key| in_range(&key.expression, over))
            }
            Operator::EmitOnClose { window_end, early_us, .. } => {
                same_width(over == width && *window_end < over)?;
                if early_us.is_some_and(|early_us| early_us <= 0) { Err("early results".to_owned()) } else { Ok(()) }
            }
            Operator::Temporal { value, bound, .. } => {
                same_width(over == width)?;
                in_range(value, over).and_then(|()| in_range(bound, 1))
            }
        }
    }
}

fn in_range(scalar: &Scalar, width: usize) -> Result<(), String> {
    match scalar.columns().into_iter().find(|column| *column >= width) {
        Some(column) => Err(format!("column {column} of {width}")),
        None => Ok(()),
    }
}
