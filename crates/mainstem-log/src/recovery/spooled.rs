//! Entries that stand in several blocks: what replay makes of them.
//!
//! Always true here: nothing of a spooled entry is applied before it is known that its last block was durable.

use super::Recovery;
use super::scan::ScannedBlock;
use crate::{Csn, Damage, OpenError, OrderStep};

/// A block of a spooled entry, or a place where some are missing.
#[derive(Debug)]
pub(super) enum Spooled {
    Block(ScannedBlock),
    Hole { file: String, position: u64 },
}

impl Recovery {
    /// Goes on with `block` behind damage in `file`.
    pub(super) fn step_over_damage(&mut self, block: ScannedBlock, file: &str) -> Result<(), OpenError> {
        let position = self.at.position;
        let last = Csn(block.header.first.0.saturating_sub(1)).max(self.writer.applied);
        if !block.header.spool.continues {
            // A spooled entry before it was whole: its last block is among what is lost.
            let found = self.take_spooled()?;
            self.lose(last, Some(&block), (file, position), found)?;
            return self.accept(block);
        }
        if last > self.writer.applied {
            let found = self.take_spooled()?;
            self.lose(last, None, (file, position), found)?;
        }
        self.spooled.push(Spooled::Hole { file: file.to_owned(), position });
        self.accept(block)
    }

    /// Applies what is there of a spooled entry, which was durable; answers its steps. Its CSN is the next one.
    pub(super) fn take_spooled(&mut self) -> Result<Vec<OrderStep>, OpenError> {
        let csn = self.writer.applied.next();
        let spooled = std::mem::take(&mut self.spooled);
        let mut steps = Vec::new();
        let mut hole = None;
        for block in &spooled {
            match block {
                Spooled::Block(block) => steps.extend(self.apply_parts(block)?),
                Spooled::Hole { file, position } => {
                    self.keep_evidence()?;
                    let meaning = format!("a part of entry {csn} cannot be read");
                    let (file, position) = (file.clone(), *position);
                    let place = format!("{file} at byte {position}");
                    self.report.damage.push(Damage { file, position, partition: None, meaning });
                    self.suspect_all(&place)?;
                    hole = Some(place);
                }
            }
        }
        if let Some(place) = hole {
            steps.extend(self.heal_spooled(csn, &place)?);
        }
        self.report.entries_applied += u64::from(!spooled.is_empty());
        Ok(steps)
    }

    /// If the order knows the entry, it names its partitions and their ends, and no other is suspect of it.
    fn heal_spooled(&mut self, csn: Csn, place: &str) -> Result<Vec<OrderStep>, OpenError> {
        let Some(steps) = self.evidence_of(csn, csn) else { return Ok(Vec::new()) };
        for step in &steps {
            self.suspects.remove(&step.partition);
            self.heal(step.partition, step.end_offset, csn, place)?;
        }
        self.suspects.retain(|_, of| of != place);
        let tails = &self.writer.tails;
        let is_whole =
            |step: &OrderStep| tails.get(&step.partition).is_some_and(|tail| tail.end_offset >= step.end_offset);
        Ok(steps.into_iter().filter(is_whole).collect())
    }

    /// The last block never came: the entry was not acknowledged, and is nothing. Answers its bytes.
    pub(super) fn forget_spooled(&mut self) -> u64 {
        let bytes = |spooled: Spooled| match spooled {
            Spooled::Block(block) => block.header.total_bytes(),
            Spooled::Hole { .. } => 0,
        };
        self.spooled.drain(..).map(bytes).sum()
    }
}
