//! Asks about frames on a second thread, while other pages are read and told: the kernel takes as long for the words of
//! /proc/kpageflags as all the rest of a translation does. Who has nothing else to do asks too.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use anyhow::{Context as _, Result};

use super::frames::{Asked, Frames, Order};

/// So many pages are worth another thread.
const MANY: usize = 4096;
/// So many batches are on their way before the first is waited for.
pub(super) const DEPTH: usize = 3;

/// Pages whose frames are asked about together: where they lie, in bytes of address space, and what is asked.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) span: Range<u64>,
    pub(super) asked: Asked,
}

/// Batches on their way, which come back in the order in which they went.
#[derive(Default)]
pub(super) struct Ahead {
    thread: Thread,
    /// The number of the first that waits.
    first: usize,
    /// `None`: not asked about yet.
    waiting: VecDeque<(Range<u64>, Option<Asked>)>,
    spare: Vec<Asked>,
    order: Order,
}

/// What goes to the thread and comes back, with the number of its batch.
type Job = (usize, Asked);

#[derive(Default)]
enum Thread {
    #[default]
    NotStarted,
    /// There was none to be had.
    None,
    Runs {
        to_ask: Sender<Job>,
        /// The other end: what no thread has begun.
        jobs: Arc<Mutex<Receiver<Job>>>,
        asked: Receiver<Result<Job>>,
    },
}

impl Ahead {
    /// With nothing to ask about.
    pub(super) fn spare(&mut self) -> Asked {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back what was told.
    pub(super) fn give_back(&mut self, mut asked: Asked) {
        asked.clear();
        self.spare.push(asked);
    }

    /// Has `batch` asked about; gives it back, asked about, where that is not worth a thread, or there is none to be had.
    ///
    /// # Errors
    /// Those of [`Frames::ask`].
    pub(super) fn ask(&mut self, frames: &Frames, batch: Batch) -> Result<Option<Batch>> {
        let Batch { span, asked } = batch;
        if asked.len() >= MANY && matches!(self.thread, Thread::NotStarted) {
            self.thread = Thread::start(frames);
        }
        let mut asked = match &self.thread {
            Thread::Runs { to_ask, .. } if asked.len() >= MANY => {
                let number = self.first + self.waiting.len();
                match to_ask.send((number, asked)) {
                    Ok(()) => {
                        self.waiting.push_back((span, None));
                        return Ok(None);
                    }
                    Err(mpsc::SendError((_, asked))) => asked,
                }
            }
            _ => asked,
        };
        frames.ask(&mut asked, &mut self.order)?;
        Ok(Some(Batch { span, asked }))
    }

    /// How many batches are on their way.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The first of them, once it is asked about; `None`: there is none.
    ///
    /// # Errors
    /// Those of [`Frames::ask`].
    pub(super) fn take(&mut self, frames: &Frames) -> Result<Option<Batch>> {
        while let Some((_, answer)) = self.waiting.front_mut() {
            if let Some(asked) = answer.take() {
                self.first += 1;
                let span = self.waiting.pop_front().unwrap_or_default().0;
                return Ok(Some(Batch { span, asked }));
            }
            let (number, asked) = self.thread.one(frames, &mut self.order)?;
            if let Some((_, answer)) = self.waiting.get_mut(number - self.first) {
                *answer = Some(asked);
            }
        }
        Ok(None)
    }

    /// Leaves out what is on its way.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Thread {
    fn start(frames: &Frames) -> Self {
        let (to_ask, jobs) = mpsc::channel();
        let (done, asked) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let (frames, its_jobs) = (frames.clone(), Arc::clone(&jobs));
        let work = move || {
            let mut order = Order::default();
            let next = || its_jobs.lock().ok()?.recv().ok();
            while let Some(job) = next() {
                if done.send(frames.answer(job, &mut order)).is_err() {
                    return;
                }
            }
        };
        match thread::Builder::new().spawn(work) {
            Ok(_) => Self::Runs {
                to_ask,
                jobs,
                asked,
            },
            Err(_) => Self::None,
        }
    }

    /// One that is asked about: here, where the thread has not begun it.
    fn one(&self, frames: &Frames, order: &mut Order) -> Result<Job> {
        let Self::Runs { jobs, asked, .. } = self else {
            anyhow::bail!("nothing is asked about frames");
        };
        // The thread holds the lock while it waits for something to do: then there is nothing to do here either.
        let job = jobs.try_lock().ok().and_then(|jobs| jobs.try_recv().ok());
        match job {
            Some(job) => frames.answer(job, order),
            None => asked.recv().context("the reader of frames died")?,
        }
    }
}

impl Frames {
    fn answer(&self, (number, mut asked): Job, order: &mut Order) -> Result<Job> {
        self.ask(&mut asked, order)?;
        Ok((number, asked))
    }
}
