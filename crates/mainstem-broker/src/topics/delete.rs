//! DeleteTopics: by name or id, refused while something needs the topic.

use mainstem_catalog::{Catalog, Dependency, Event, Topic, TopicOwner};
use mainstem_kafka_wire::messages::delete_topics_request::DeleteTopicState;
use mainstem_kafka_wire::messages::delete_topics_response::DeletableTopicResult;
use mainstem_kafka_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse, ResponseError, TopicName};

use super::refusal_of_change;
use crate::broker::Broker;
use crate::codec::{Refusal, text};

impl Broker {
    pub(crate) async fn delete_topics(&self, request: DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        let asked: Vec<DeleteTopicState> =
            if version >= 6 { request.topics } else { request.topic_names.into_iter().map(by_name).collect() };
        let planned_for = asked.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let changed = self.change_catalog(move |catalog| {
            let mut after = catalog.clone();
            let mut events = Vec::new();
            let mut outcomes = Vec::new();
            for state in &planned_for {
                let planned = plan_delete(&after, state).and_then(|topic| {
                    let event = Event::TopicDeleted { topic: topic.id };
                    let applied = after.apply(&event);
                    applied.map_err(|refused| Refusal::new(ResponseError::PolicyViolation, refused.to_string()))?;
                    events.push(event);
                    Ok(topic)
                });
                outcomes.push(planned);
            }
            drop(tell.send(outcomes));
            Ok::<_, std::convert::Infallible>(events)
        });
        let changed = changed.await;
        let outcomes = told.await.unwrap_or_default();
        let mut results = Vec::with_capacity(asked.len());
        for (i, state) in asked.into_iter().enumerate() {
            let result = DeletableTopicResult::default().with_name(state.name).with_topic_id(state.topic_id);
            results.push(match (outcomes.get(i), &changed) {
                (Some(Err(refusal)), _) => refused(result, refusal.clone(), version),
                (_, Err(error)) => refused(result, refusal_of_change(error), version),
                (Some(Ok(topic)), Ok(_)) => {
                    result.with_name(Some(TopicName(text(topic.name.clone())))).with_topic_id(topic.id)
                }
                (None, Ok(_)) => result.with_error_code(ResponseError::UnknownServerError.code()),
            });
        }
        DeleteTopicsResponse::default().with_responses(results)
    }
}

fn refused(result: DeletableTopicResult, refusal: Refusal, version: i16) -> DeletableTopicResult {
    let message = (version >= 5).then(|| text(refusal.message));
    // Up to version 5 a name may not be null.
    let name = result.name.clone().or_else(|| (version < 6).then(TopicName::default));
    result.with_name(name).with_error_code(refusal.error.code()).with_error_message(message)
}

fn plan_delete(catalog: &Catalog, state: &DeleteTopicState) -> Result<Topic, Refusal> {
    let topic = match &state.name {
        Some(name) if !state.topic_id.is_nil() => {
            let message = format!("topic {} is named by its name and by an id", name.as_str());
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
        Some(name) => catalog.topic_named(name).ok_or_else(|| {
            let message = format!("topic {} does not exist", name.as_str());
            Refusal::new(ResponseError::UnknownTopicOrPartition, message)
        })?,
        None => catalog.topic(state.topic_id).ok_or_else(|| {
            Refusal::new(ResponseError::UnknownTopicId, format!("no topic has the id {}", state.topic_id))
        })?,
    };
    match topic.owner {
        TopicOwner::Anyone => {}
        TopicOwner::Internal => {
            let message = format!("topic {} is internal and cannot be deleted", topic.name);
            return Err(Refusal::new(ResponseError::InvalidRequest, message));
        }
        TopicOwner::Table(id) => {
            let table = catalog.relation(id).map_or_else(|| topic.name.clone(), |table| table.name.clone());
            let message = format!("topic {} belongs to table \"{table}\": use DROP TABLE", topic.name);
            return Err(Refusal::new(ResponseError::PolicyViolation, message));
        }
    }
    let users = catalog.dependents(Dependency::Topic(topic.id));
    if !users.is_empty() {
        let users: Vec<_> = users.iter().map(|user| format!("{} \"{}\"", user.kind.noun(), user.name)).collect();
        let message = format!("topic {} is used by {}: drop that first", topic.name, users.join(", "));
        return Err(Refusal::new(ResponseError::PolicyViolation, message));
    }
    Ok(Topic::clone(topic))
}
