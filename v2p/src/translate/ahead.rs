//! Asks about frames on a second thread, while other pages are read and told: the kernel takes as long for the words of
//! /proc/kpageflags as all the rest of a translation does. Who has nothing else to do asks too.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use anyhow::{Context as _, Result};

use super::{
    frames::{Asked, Frames},
    page::Page,
};

/// So many pages are worth another thread.
const MANY: usize = 4096;
/// So many batches are on their way before the first is waited for.
pub(super) const DEPTH: usize = 3;

/// Pages whose frames are asked about together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) pages: Vec<Page>,
    pub(super) asked: Asked,
}

/// Batches on their way, which come back in the order in which they went.
#[derive(Default)]
pub(super) struct Ahead {
    thread: Thread,
    /// The number of the first that waits.
    first: usize,
    /// The pages stay here; `None`: not asked about yet.
    waiting: VecDeque<(Vec<Page>, Option<Asked>)>,
    spare: Vec<Batch>,
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
    /// An empty batch.
    pub(super) fn spare(&mut self) -> Batch {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a batch back that was told.
    pub(super) fn give_back(&mut self, mut batch: Batch) {
        batch.pages.clear();
        self.spare.push(batch);
    }

    /// Has `batch` asked about; gives it back where that is not worth a thread, or there is none to be had.
    pub(super) fn ask(&mut self, frames: &Frames, mut batch: Batch) -> Option<Batch> {
        if batch.pages.len() < MANY {
            return Some(batch);
        }
        if let Thread::NotStarted = self.thread {
            self.thread = Thread::start(frames);
        }
        let Thread::Runs { to_ask, .. } = &self.thread else {
            return Some(batch);
        };
        batch.asked.about(&batch.pages);
        let job = (self.first + self.waiting.len(), batch.asked);
        let pages = batch.pages;
        match to_ask.send(job) {
            Ok(()) => {
                self.waiting.push_back((pages, None));
                None
            }
            Err(mpsc::SendError((_, asked))) => Some(Batch { pages, asked }),
        }
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
                let pages = self.waiting.pop_front().unwrap_or_default().0;
                return Ok(Some(Batch { pages, asked }));
            }
            let (number, asked) = self.thread.one(frames)?;
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
            let next = || its_jobs.lock().ok()?.recv().ok();
            while let Some(job) = next() {
                if done.send(frames.answer(job)).is_err() {
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
    fn one(&self, frames: &Frames) -> Result<Job> {
        let Self::Runs { jobs, asked, .. } = self else {
            anyhow::bail!("nothing is asked about frames");
        };
        // The thread holds the lock while it waits for something to do: then there is nothing to do here either.
        let job = jobs.try_lock().ok().and_then(|jobs| jobs.try_recv().ok());
        match job {
            Some(job) => frames.answer(job),
            None => asked.recv().context("the reader of frames died")?,
        }
    }
}

impl Frames {
    fn answer(&self, (number, mut asked): Job) -> Result<Job> {
        self.ask(&mut asked)?;
        Ok((number, asked))
    }
}
