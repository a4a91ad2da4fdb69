//! How many the daemon serves at once, so that nobody can keep the others away.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many are served at once; others wait.
const AT_ONCE: usize = 8;
/// How many of them may be one user's.
const A_USER: usize = 4;
/// How many of one user's may wait or be served; more are turned away.
const WAITING: usize = 16;

/// The daemon's places. Root needs none: it could end the daemon as well.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    users: RefCell<HashMap<u32, User>>,
}

#[derive(Debug)]
struct User {
    /// Those that wait or are served.
    here: usize,
    places: Arc<Semaphore>,
}

/// A request that waits or is served.
#[derive(Debug)]
pub(super) struct Entry {
    places: Rc<Places>,
    uid: u32,
}

/// What a request holds while it is served.
pub(super) type Place = Option<[OwnedSemaphorePermit; 2]>;

impl Places {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            all: Arc::new(Semaphore::new(AT_ONCE)),
            users: RefCell::default(),
        })
    }

    /// Lets a request of a user's in, to wait; `None` where too many of them are.
    pub(super) fn enter(self: &Rc<Self>, uid: u32) -> Option<Entry> {
        let mut users = self.users.borrow_mut();
        let user = users.entry(uid).or_insert_with(|| User {
            here: 0,
            places: Arc::new(Semaphore::new(A_USER)),
        });
        if user.here == WAITING && uid != 0 {
            return None;
        }
        user.here += 1;
        Some(Entry {
            places: Rc::clone(self),
            uid,
        })
    }
}

impl Entry {
    /// Waits for a place.
    pub(super) async fn place(&self) -> Place {
        if self.uid == 0 {
            return None;
        }
        let own = {
            let users = self.places.users.borrow();
            Arc::clone(&users.get(&self.uid)?.places)
        };
        // They are never closed.
        let own = own.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.places.all).acquire_owned().await.ok()?;
        Some([own, all])
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut users = self.places.users.borrow_mut();
        if let Some(user) = users.get_mut(&self.uid) {
            user.here -= 1;
            if user.here == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places that those who are let in get at once.
    fn served(entries: &[Entry]) -> Vec<Place> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut places = Vec::new();
            for entry in entries {
                tokio::select! {
                    biased;
                    place = entry.place() => places.push(place),
                    () = std::future::ready(()) => {}
                }
            }
            places
        })
    }

    #[test]
    fn one_user_leaves_places_to_others() {
        let places = Places::new();
        let entries: Vec<_> = std::iter::repeat_with(|| places.enter(1000))
            .map_while(|entry| entry)
            .collect();
        assert_eq!(entries.len(), WAITING);
        let held = served(&entries);
        assert_eq!(held.len(), A_USER);
        let other = places.enter(1001).unwrap();
        let others = served(std::slice::from_ref(&other));
        assert_eq!(others.len(), 1);
        drop(held);
        assert_eq!(served(&entries[..1]).len(), 1);
        drop(entries);
        assert!(places.enter(1000).is_some());
    }

    #[test]
    fn root_never_waits() {
        let places = Places::new();
        let entries: Vec<_> = (0..100).map(|_| places.enter(0).unwrap()).collect();
        assert_eq!(served(&entries).len(), 100);
    }
}
