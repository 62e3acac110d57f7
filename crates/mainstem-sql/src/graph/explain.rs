//! A graph as an indented tree, the output first.

use super::{
    Aggregate, AggregateFunction, Graph, Nearest, Node, Operator, OperatorId, Scalar, SortKey, WindowFunction,
};

impl Graph {
    /// One line per operator, inputs below their user and further in. `relation` names a relation by its id.
    #[must_use]
    pub fn explain(&self, relation: &dyn Fn(mainstem_catalog::RelationId) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        self.explain_node(self.output, 0, relation, &mut lines);
        lines
    }

    fn explain_node(
        &self,
        id: OperatorId,
        depth: usize,
        relation: &dyn Fn(mainstem_catalog::RelationId) -> String,
        lines: &mut Vec<String>,
    ) {
        let node = self.node(id);
        let append_only = if node.append_only { " [append only]" } else { "" };
        let forgets = if node.forgets.is_empty() { "" } else { " [forgets]" };
        lines.push(format!("{}{}{append_only}{forgets}", "  ".repeat(depth), self.describe(node, relation)));
        for input in &node.inputs {
            self.explain_node(*input, depth + 1, relation, lines);
        }
    }

    fn describe(&self, node: &Node, relation: &dyn Fn(mainstem_catalog::RelationId) -> String) -> String {
        let of = |input: usize, column: usize| {
            let field = node.inputs.get(input).and_then(|id| self.node(*id).schema.get(column));
            field.map_or_else(|| format!("#{column}"), |field| field.name.clone())
        };
        let name = |column: usize| of(0, column);
        match &node.operator {
            Operator::Input { relation: id, .. } => format!("Input {} ({})", relation(*id), columns(node)),
            Operator::Constant { rows } => format!("Constant {} rows ({})", rows.len(), columns(node)),
            Operator::Filter { predicate } => format!("Filter {}", predicate.describe(&name)),
            Operator::Project { expressions } => {
                let parts = expressions.iter().zip(&node.schema).map(|(expression, field)| {
                    let text = expression.describe(&name);
                    if text == field.name { text } else { format!("{text} AS {}", field.name) }
                });
                format!("Project {}", parts.collect::<Vec<_>>().join(", "))
            }
            Operator::Unnest { column } => format!("Unnest {}", name(*column)),
            Operator::Aggregate { group, aggregates } => {
                let group: Vec<_> = group.iter().map(|scalar| scalar.describe(&name)).collect();
                let aggregates: Vec<_> =
                    aggregates.iter().map(|aggregate| describe_aggregate(aggregate, &name)).collect();
                format!("Aggregate by ({}): {}", group.join(", "), aggregates.join(", "))
            }
            Operator::Join { kind, on, null_equals_null, filter, range } => {
                let left_width = self.node(node.inputs[0]).schema.len();
                let either = |column: usize| {
                    if column < left_width { of(0, column) } else { of(1, column - left_width) }
                };
                let equal = if *null_equals_null { "IS NOT DISTINCT FROM" } else { "=" };
                let mut parts: Vec<_> = on
                    .iter()
                    .map(|(left, right)| {
                        format!("{} {equal} {}", left.describe(&name), right.describe(&|column| of(1, column)))
                    })
                    .collect();
                parts.extend(filter.iter().map(|filter| filter.describe(&either)));
                let range = range.map(|range| format!(" [by {} and {}]", of(0, range.left), of(1, range.right)));
                format!("Join {kind:?} on {}{}", parts.join(" AND "), range.unwrap_or_default())
            }
            Operator::AsOf { is_outer, on, times, nearest } => {
                let right = |column: usize| of(1, column);
                let pair = |(left, op, right_side): (&Scalar, &str, &Scalar)| {
                    format!("{} {op} {}", left.describe(&name), right_side.describe(&right))
                };
                let op = match nearest {
                    Nearest::AtOrBefore => ">=",
                    Nearest::Before => ">",
                    Nearest::AtOrAfter => "<=",
                    Nearest::After => "<",
                };
                let equal = on.iter().map(|(left, right)| pair((left, "=", right)));
                let parts: Vec<_> = equal.chain([pair((&times.0, op, &times.1))]).collect();
                let kind = if *is_outer { "Left" } else { "Inner" };
                format!("AsOf {kind} on {}", parts.join(" AND "))
            }
            Operator::Union => "Union".to_owned(),
            Operator::Distinct => "Distinct".to_owned(),
            Operator::TopN { keys, limit, offset } => {
                let keys: Vec<_> = keys.iter().map(|key| describe_key(key, &name)).collect();
                let limit = limit.map_or_else(|| "all".to_owned(), |limit| limit.to_string());
                let keys = if keys.is_empty() { "the whole row".to_owned() } else { keys.join(", ") };
                format!("TopN limit {limit} offset {offset} by {keys}")
            }
            Operator::Over { partition, order, functions, limit } => {
                let partition: Vec<_> = partition.iter().map(|scalar| scalar.describe(&name)).collect();
                let order: Vec<_> = order.iter().map(|key| describe_key(key, &name)).collect();
                let listed = functions;
                let functions: Vec<_> = functions.iter().map(|function| describe_function(function, &name)).collect();
                let what = match limit {
                    Some(limit) => format!(" [the first {limit} rows of each]"),
                    None if listed.iter().all(|function| function.is_piecewise(order.len())) => String::new(),
                    None => " [computes touched partitions again]".to_owned(),
                };
                let (partition, order) = (partition.join(", "), order.join(", "));
                format!("Over ({partition}) by ({order}): {}{what}", functions.join(", "))
            }
            Operator::DropLate {} => "DropLate".to_owned(),
            Operator::EmitOnClose { window_end, after_us, early_us } => {
                let after = if *after_us == -1 { String::new() } else { format!(" after {} us", after_us + 1) };
                let early = early_us.map_or_else(String::new, |us| format!(" [early every {} ms]", us / 1000));
                format!("EmitOnClose {}{after}{early}", name(*window_end))
            }
            Operator::Temporal { value, comparison, bound, is_steady } => {
                let bound = bound.describe(&|_| "now".to_owned());
                let kept = match (comparison.is_lower_bound(), is_steady) {
                    (true, true) => "drops what is past",
                    (false, true) => "keeps what is to come",
                    (_, false) => "keeps all rows",
                };
                format!("TemporalFilter {} {} {bound} [by ticks, {kept}]", value.describe(&name), comparison.symbol())
            }
        }
    }
}

fn columns(node: &Node) -> String {
    node.schema.iter().map(|field| field.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn describe_key(key: &SortKey, name: &dyn Fn(usize) -> String) -> String {
    let direction = if key.descending { "DESC" } else { "ASC" };
    let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
    format!("{} {direction} NULLS {nulls}", key.expression.describe(name))
}

fn describe_aggregate(aggregate: &Aggregate, name: &dyn Fn(usize) -> String) -> String {
    let mut arguments: Vec<_> = aggregate.arguments.iter().map(|argument| argument.describe(name)).collect();
    if arguments.is_empty() {
        arguments.push("*".to_owned());
    }
    match &aggregate.function {
        AggregateFunction::PercentileCont { fraction_bits } => {
            arguments.push(f64::from_bits(*fraction_bits).to_string());
        }
        AggregateFunction::StringAgg { delimiter } => arguments.push(format!("{delimiter:?}")),
        AggregateFunction::NthValue { n } => arguments.push(n.to_string()),
        _ => {}
    }
    let distinct = if aggregate.distinct { "DISTINCT " } else { "" };
    let order: Vec<_> = aggregate.order.iter().map(|key| describe_key(key, name)).collect();
    let order = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
    let nulls = if aggregate.ignore_nulls { " IGNORE NULLS" } else { "" };
    let mut text = format!("{}({distinct}{}{order}){nulls}", aggregate.function.name(), arguments.join(", "));
    if let Some(filter) = &aggregate.filter {
        text.push_str(&format!(" FILTER {}", filter.describe(name)));
    }
    text
}

fn describe_function(function: &WindowFunction, name: &dyn Fn(usize) -> String) -> String {
    let arguments: Vec<_> = function.arguments.iter().map(|argument| argument.describe(name)).collect();
    let distinct = if function.distinct { "DISTINCT " } else { "" };
    let nulls = if function.ignore_nulls { " IGNORE NULLS" } else { "" };
    let filter = function.filter.as_ref().map(|filter| format!(" FILTER {}", filter.describe(name)));
    let frame = function.frame.describe();
    format!("{}({distinct}{}){nulls}{} {frame}", function.name, arguments.join(", "), filter.unwrap_or_default())
}
