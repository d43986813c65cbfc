//! A world for simulations: many tasks on one thread, polled in an order by chance; time that passes only when none of them can
//! go on; chance from a seed. The store asks here first for time and chance, so a run over it is a function of the seed alone.
//!
//! Not part of the store's interface: it is here because the store's own tests and the simulation of whole runs share it.

mod faulty;

pub use faulty::{Fault, Faulty, ReadFault};

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

type Task = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// What time it is, who waits for which moment, and what chance says next.
struct World {
    chance: u64,
    now: Duration,
    timers: BTreeMap<(Duration, u64), Waker>,
    timer_ids: u64,
    spawned: Vec<Task>,
}

/// Something of this thread's world, if there is one.
fn with<T>(ask: impl FnOnce(&mut World) -> T) -> Option<T> {
    WORLD.try_with(|world| world.borrow_mut().as_mut().map(ask)).ok().flatten()
}

impl World {
    /// A splitmix64 sequence.
    fn random(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Whether this thread is within a simulation.
pub(crate) fn is_on() -> bool {
    with(|_| ()).is_some()
}

/// The simulation's time, since its beginning.
pub fn now() -> Option<Duration> {
    with(|world| world.now)
}

/// A wall clock of a world in which no two agree: each look at one is wrong by up to a day. Nothing may depend on it.
pub(crate) fn wrong_now_ms() -> Option<i64> {
    const DAY: i64 = 86_400_000;
    with(|world| DAY + world.now.as_millis() as i64 + (world.random() % (2 * DAY) as u64) as i64 - DAY)
}

pub(crate) fn random() -> Option<u64> {
    with(World::random)
}

pub(crate) fn sleep(time: Duration) -> Option<Sleep> {
    with(|world| {
        world.timer_ids += 1;
        Sleep { timer: (world.now + time, world.timer_ids) }
    })
}

/// Goes on with a future beside everything else, here or on the runtime: a request that is on its way whatever became of
/// whoever made it.
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    let mut future = Some(future);
    with(|world| world.spawned.extend(future.take().map(|future| Box::pin(future) as Task)));
    if let Some(future) = future {
        tokio::spawn(future);
    }
}

/// Ready when its time has come.
pub(crate) struct Sleep {
    timer: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer;
        let waits = with(|world| {
            let waits = world.now < timer.0;
            if waits {
                world.timers.insert(timer, context.waker().clone());
            }
            waits
        });
        if waits == Some(true) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        with(|world| world.timers.remove(&self.timer));
    }
}

/// The tasks of a simulation, and with them its world: one at a time on a thread, gone with this value.
pub struct Tasks {
    tasks: BTreeMap<u64, Task>,
    ready: Arc<Mutex<BTreeSet<u64>>>,
    ids: u64,
}

struct Wakes {
    id: u64,
    ready: Arc<Mutex<BTreeSet<u64>>>,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        lock(&self.ready).insert(self.id);
    }
}

/// Nobody panics while holding it; and if so, a set of numbers is still one.
fn lock(ready: &Mutex<BTreeSet<u64>>) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// A world in which nothing has happened, and all of whose chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        let world =
            World { chance: seed, now: Duration::ZERO, timers: BTreeMap::new(), timer_ids: 0, spawned: Vec::new() };
        WORLD.with(|slot| *slot.borrow_mut() = Some(world));
        Self { tasks: BTreeMap::new(), ready: Arc::default(), ids: 0 }
    }

    /// Starts a task; it runs when its turn comes.
    pub fn start(&mut self, task: impl Future<Output = ()> + 'static) -> u64 {
        self.add(Box::pin(task))
    }

    fn add(&mut self, task: Task) -> u64 {
        self.ids += 1;
        self.tasks.insert(self.ids, task);
        lock(&self.ready).insert(self.ids);
        self.ids
    }

    /// Ends a task at whatever it awaits.
    pub fn kill(&mut self, id: u64) {
        self.tasks.remove(&id);
    }

    /// Whether a task has not ended.
    pub fn is_alive(&self, id: u64) -> bool {
        self.tasks.contains_key(&id)
    }

    /// Lets a task that can go on do so until it waits again, or, if none can, lets time pass to the next moment for which one
    /// waits. False if there is no such moment either.
    pub fn turn(&mut self) -> bool {
        let spawned = with(|world| std::mem::take(&mut world.spawned)).unwrap_or_default();
        for task in spawned {
            self.add(task);
        }
        let picked = {
            let mut ready = lock(&self.ready);
            ready.retain(|id| self.tasks.contains_key(id));
            let nth = if ready.is_empty() { 0 } else { below(ready.len() as u64) as usize };
            let picked = ready.iter().nth(nth).copied();
            picked.filter(|id| ready.remove(id))
        };
        let Some(id) = picked else { return self.pass_time() };
        let waker = Waker::from(Arc::new(Wakes { id, ready: self.ready.clone() }));
        if let Some(task) = self.tasks.get_mut(&id)
            && task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            self.tasks.remove(&id);
        }
        true
    }

    fn pass_time(&mut self) -> bool {
        let next = with(|world| {
            let ((moment, _), waker) = world.timers.pop_first()?;
            world.now = world.now.max(moment);
            Some(waker)
        });
        next.flatten().map(Waker::wake).is_some()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // The tasks first: their timers are the world's.
        self.tasks.clear();
        let world = WORLD.with(|slot| slot.borrow_mut().take());
        drop(world);
    }
}

/// A number below `n`, of the world's chance.
pub fn below(n: u64) -> u64 {
    crate::chance::random() % n.max(1)
}

/// Waits, in the world's time.
pub async fn pause(time: Duration) {
    crate::clock::sleep(time).await;
}

/// What a future gives that waits for nothing but itself, as one over an object store in memory.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}
