//! One SQL session as a state machine: a statement becomes a catalog change, a write, a job or rows.
//!
//! Words: [`Shared`] is what all sessions of a server have in common; [`Catalogs`] is how definitions are changed, durably,
//! by whoever owns them; a *response* is what a statement gives; what any session wrote or defined is *acknowledged* up
//! to a cut, and of no read that starts later may it be missing.
//!
//! Always true here: no sockets and no files; a statement that fails inside a transaction makes it a failed one; what a
//! SELECT reads is one cut that holds all that was acknowledged before it; no statement is recognised by its text.

mod alter;
mod catalogs;
mod copy;
mod cursors;
mod ddl;
mod explain;
mod late_table;
mod parameters;
mod query;
mod replace;
mod session;
mod settings;
mod shared;
mod show;
mod sinks;
mod subscribe;
mod system;
mod transactions;
mod values;

pub use catalogs::{CatalogDecision, Catalogs};
pub use copy::{CopyIn, CopyOut};
pub use parameters::{Description, Parameter};
pub use session::{Response, RowStream, Session, Tag};
pub use shared::{Shared, SharedParts};
pub use transactions::TransactionStatus;
pub use values::{
    Cells, Format, PgType, ResultColumn, RowEncoder, column_from_text, oid_of, parameter_text, pg_type,
    sql_type_of_oid, write_text,
};
