//! What the campaigns share that kill a process at every instruction of an operation
//!
//! [`scenes`] says what is done and what there was before; [`stepper`] takes a victim through it; [`stage`] has the
//! segment, somebody who is attached all along, and [`judge`] says whether what a death has left is sound.

// Each campaign uses a part of it.
#![allow(dead_code)]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

pub mod given;
pub mod judge;
pub mod queues;
pub mod scenes;
pub mod several;
pub mod stage;
pub mod stepper;

use crate::common::arena::Allocator;
use crate::common::campaign::{Figures, Forked};
use crate::common::{say, tracer};
use judge::Fault;
use scenes::{Scene, Victim};
use shmem_bind::Builder;
use stage::{Snapshot, Stage, ledger};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};
use stepper::{Step, Stepper};

/// At which of its steps a victim is killed for real.
///
/// It has to be taken there step by step, each time from the beginning. So of long operations only every n-th step is
/// taken for a kill, as many as can be had for a number of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How far a victim is followed for the images that it leaves.
    pub most_steps: usize,
    /// Instructions to be spent on kills at loud steps in one scene, about.
    loud: u64,
    /// The same for kills at any steps.
    every: u64,
}

impl Extent {
    /// For a glance in passing: the beginning of each operation.
    pub const SHORT: Self = Self { most_steps: 3000, loud: 3000, every: 0 };
    /// All images, and some kills.
    pub const LONG: Self = Self { most_steps: usize::MAX, loud: 15_000, every: 0 };
    /// All images, and kills at every instruction of short operations, and at every change of most others.
    pub const FULL: Self = Self { most_steps: usize::MAX, loud: 1_000_000, every: 250_000 };

    pub fn parse(word: &str) -> Self {
        match word {
            "short" => Self::SHORT,
            "long" => Self::LONG,
            "full" => Self::FULL,
            _ => panic!("{word}"),
        }
    }
}

/// Every how many steps to kill, of an operation of `steps` steps of which so many count.
const fn stride(steps: usize, counted: usize, budget: u64) -> usize {
    let all = steps as u64 * counted as u64 / 2;
    (all / budget + 1) as usize
}

/// What a victim left on its way to the end of its operation.
struct Walk {
    /// The segment whenever it was changed, and at how many steps it was so.
    images: Vec<(Snapshot, u64)>,
    steps: usize,
    loud: usize,
    /// What the victim itself found wrong.
    verdict: Result<(), Fault>,
    /// The victim, dead.
    _victim: Forked,
}

impl Walk {
    /// Goes to the end, or so many steps.
    fn new(mut stepper: Stepper<'_>, most_steps: usize) -> Self {
        let mut images = vec![(ledger().snapshot(stepper.bytes()), 1)];
        let (mut steps, mut loud) = (1, 1);
        loop {
            let step = if steps < most_steps { stepper.step() } else { Step::End };
            if step == Step::End {
                let verdict = judge::take_verdict();
                return Self { images, steps, loud, verdict, _victim: stepper.kill() };
            }
            steps += 1;
            loud += usize::from(step == Step::Loud);
            match images.last_mut() {
                Some((last, count)) if last.bytes == stepper.bytes() => *count += 1,
                _ => images.push((ledger().snapshot(stepper.bytes()), 1)),
            }
        }
    }
}

/// Goes through scenes and kills.
pub struct Runner<A> {
    pub figures: Figures,
    /// How many were killed for real.
    pub kills: u64,
    calls: HashMap<u64, bool>,
    last_word: Instant,
    allocator: PhantomData<A>,
}

impl<A: Allocator> Runner<A> {
    pub fn new() -> Self {
        tracer::stay_on_one_cpu();
        judge::keep_judges_quiet();
        Self {
            figures: Figures::default(),
            kills: 0,
            calls: HashMap::new(),
            last_word: Instant::now(),
            allocator: PhantomData,
        }
    }

    /// Forks a victim of this scene, which stops before its operation; gives the one, too, who may have died meanwhile.
    fn start<'a>(
        stage: &'a mut Stage<A>,
        calls: &'a mut HashMap<u64, bool>,
        scene: &Scene<A>,
    ) -> (Stepper<'a>, Option<Forked>) {
        let (name, past, memfd) = (stage.name.to_owned(), stage.past, stage.memfd.as_ref());
        let mut stepper = Stepper::start(&mut stage.view, calls, |trace| {
            (scene.operate)(Victim { name: &name, past, memfd, trace, allocator: PhantomData });
        });
        let dead = Stage::<A>::die_lately(past, &name);
        stepper.begin();
        (stepper, dead)
    }

    fn note(&mut self, scene: &Scene<A>, at: &str, result: Result<(), Fault>) {
        self.still_here();
        if let Err((wrong, text)) = result {
            self.figures.report(wrong, format!("{} {}, killed {at}: {text}", A::NAME, scene.label));
        }
    }

    /// Kills a victim wherever it can be told from outside, or everywhere.
    pub fn kill_in(&mut self, scene: &Scene<A>, extent: Extent) -> String {
        let (steps, loud) = self.walk(scene, extent.most_steps);
        // Where there are no images, kills are all there is.
        let budget = if scene.is_in_segment { extent.loud } else { extent.loud * 10 };
        let loud_stride = stride(steps, loud, budget);
        let mut kills = self.kill_at(scene, steps, loud_stride, |step| step == Step::Loud);
        if extent.every != 0 {
            kills += self.kill_at(scene, steps, stride(steps, steps, extent.every), |_| true);
        }
        if !scene.is_in_segment {
            // Each loud step stands for the quiet ones after it, if none was left out.
            self.figures.points += if loud_stride == 1 { steps as u64 } else { kills };
        }
        self.kills += kills;
        format!("{} {}: instructions {steps}, of which loud {loud}, killed at {kills}", A::NAME, scene.label)
    }

    /// Steps a victim to the end of its operation, or so far; judges the images that it leaves on its way, if they are all that its
    /// death would leave. Gives the numbers of steps, and of loud ones.
    fn walk(&mut self, scene: &Scene<A>, most_steps: usize) -> (usize, usize) {
        let mut stage = Stage::<A>::new(scene.past, &mut self.calls);
        let (stepper, _dead) = Self::start(&mut stage, &mut self.calls, scene);
        let walk = Walk::new(stepper, most_steps);
        self.note(scene, "at the end", walk.verdict);
        if scene.is_in_segment {
            self.judge_images(&stage, scene, &walk.images, "");
        }
        (walk.steps, walk.loud)
    }

    /// Says now and then that the campaign goes on.
    fn still_here(&mut self) {
        if self.last_word.elapsed() > Duration::from_secs(10) {
            say("progress ...");
            self.last_word = Instant::now();
        }
    }

    fn judge_images(&mut self, stage: &Stage<A>, scene: &Scene<A>, images: &[(Snapshot, u64)], when: &str) {
        for (index, (image, count)) in images.iter().enumerate() {
            let result = judge::judge_snapshot(stage, scene, image);
            self.figures.points += count;
            self.note(scene, &format!("{when}at image {index}"), result);
        }
    }

    /// Takes each `stride`-th image that a victim of this scene leaves, lets somebody recover from it, one instruction at a time, and judges
    /// the images that the recovery leaves on its way.
    ///
    /// What opens the arena attaches too, and so is not all in the segment; but the lock that it takes on the file goes with it,
    /// and the observer has it also.
    pub fn kill_the_recovery(&mut self, scene: &Scene<A>, stride: usize) -> String {
        let mut stage = Stage::<A>::new(scene.past, &mut self.calls);
        let (stepper, _dead) = Self::start(&mut stage, &mut self.calls, scene);
        let walk = Walk::new(stepper, usize::MAX);
        let (mut recoveries, mut images, mut steps) = (0, 0, 0);
        // The last one is that of a death when all is done.
        for (index, (image, _)) in walk.images.iter().enumerate().rev().step_by(stride) {
            stage.view.restore(&image.bytes);
            ledger().restore(image);
            let name = stage.name.to_owned();
            self.still_here();
            // In turn by opening the arena, and by one who knows nothing of arenas.
            let opens = recoveries % 2 == 0;
            let stepper = Stepper::start(&mut stage.view, &mut self.calls, |trace| {
                let mut arena = None;
                let mut conf = (!opens).then(|| Builder::new(&name).attach().unwrap());
                trace(&mut || match &mut conf {
                    Some(conf) => _ = conf.sweep(),
                    None => arena = Some(stage::attach::<A>(&name)),
                });
            });
            let recovery = Walk::new(stepper, usize::MAX);
            self.note(scene, &format!("at image {index}, in its recovery"), recovery.verdict);
            self.judge_images(&stage, scene, &recovery.images, &format!("at image {index}, the recovery "));
            recoveries += 1;
            images += recovery.images.len();
            steps += recovery.steps;
        }
        format!("{} {}: {recoveries} recoveries, instructions {steps}, images {images}", A::NAME, scene.label)
    }

    /// Kills a victim at every `stride`-th of the steps that count, as long as it is no further than `most_steps`.
    fn kill_at(
        &mut self,
        scene: &Scene<A>,
        most_steps: usize,
        stride: usize,
        counts: impl Fn(Step) -> bool,
    ) -> u64 {
        let mut kills = 0;
        for target in (0..).step_by(stride) {
            let mut stage = Stage::<A>::new(scene.past, &mut self.calls);
            let (mut stepper, dead_before) = Self::start(&mut stage, &mut self.calls, scene);
            let (mut steps, mut counted, mut is_over) = (0, 0, false);
            while counted < target && !is_over {
                let step = stepper.step();
                steps += 1;
                counted += usize::from(step != Step::End && counts(step));
                is_over = step == Step::End || steps >= most_steps;
            }
            let dead = stepper.kill();
            let result = judge::judge_for_good(stage, scene, kills % 2 == 0);
            self.note(scene, &format!("at step {steps}"), result);
            drop((dead, dead_before));
            kills += 1;
            if is_over {
                break;
            }
        }
        kills
    }
}
