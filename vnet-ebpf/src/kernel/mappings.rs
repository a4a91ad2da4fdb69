//! The maps of mappings and of their remote addresses: an entry is there as long as somebody holds it.

use vnet_common::{Addr, Binding, BindingKey, Contact, ContactKey};

use super::{
    atomic::{atomic_add, hold},
    maps::{BINDINGS, CONTACTS},
};

/// Whether two addresses differ: without a branch for each byte, nor a call.
#[inline(always)]
fn differ(a: &Addr, b: &Addr) -> bool {
    let mut differs = 0;
    let mut i = 0;
    while i < 16 {
        differs |= a[i] ^ b[i];
        i += 1;
    }
    differs != 0
}

/// Reads a mapping to `binding` and says whether it is there.
#[inline(never)]
pub fn look_binding(key: &BindingKey, binding: &mut Binding) -> bool {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory.
    unsafe {
        *binding = core::ptr::read(value);
    }
    binding.refs != 0
}

/// Holds a mapping, and `contact` with it when that is its remote address: reads it to `binding` and
/// says whether it is there.
#[inline(never)]
pub fn hold_binding(key: &BindingKey, contact: Option<&Addr>, binding: &mut Binding) -> bool {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory; `refs` and `count` are aligned words.
    unsafe {
        let refs = &raw mut (*value).refs;
        if !hold(refs) {
            return false;
        }
        *binding = core::ptr::read(value);
        // The memory of a mapping that went meanwhile may be another one's by now.
        if BINDINGS.get_ptr_mut(key) != Some(value) {
            atomic_add(refs, -1);
            return false;
        }
        // The address is the mapping's as long as that is there, and the hold keeps it there.
        if let Some(contact) = contact
            && !differ(&binding.remote, contact)
        {
            atomic_add(&raw mut (*value).count, 1);
        }
    }
    true
}

/// [`release_binding`] has given back the last hold.
pub const LAST: u32 = 1;
/// [`release_binding`] has given back the contact.
pub const CONTACT: u32 = 2;

/// Gives back a hold, and of `contact` when it is the mapping's remote address.
#[inline(never)]
pub fn release_binding(key: &BindingKey, addr: &Addr, port: u16, contact: Option<&Addr>) -> u32 {
    let Some(value) = BINDINGS.get_ptr_mut(key) else {
        return 0;
    };
    let mut released = 0;
    // SAFETY: map memory; `refs` and `count` are aligned words.
    unsafe {
        // Another mapping by now.
        if (*value).port != port || differ(&(*value).addr, addr) {
            return 0;
        }
        // First: what it holds may be gone after its last hold.
        if let Some(contact) = contact
            && !differ(&(*value).remote, contact)
        {
            atomic_add(&raw mut (*value).count, -1);
            released = CONTACT;
        }
        if atomic_add(&raw mut (*value).refs, -1) != 1 {
            return released;
        }
    }
    if BINDINGS.remove(key).is_ok() {
        released |= LAST;
    }
    released
}

/// Holds a contact, or adds it.
#[inline(never)]
pub fn hold_contact(key: &ContactKey) -> bool {
    const NO_EXIST: u64 = 1;
    if let Some(value) = CONTACTS.get_ptr_mut(key) {
        // SAFETY: map memory; `refs` is an aligned word.
        unsafe {
            let refs = &raw mut (*value).refs;
            if hold(refs) {
                // As with a mapping.
                if CONTACTS.get_ptr_mut(key) == Some(value) {
                    return true;
                }
                atomic_add(refs, -1);
            }
        }
    }
    CONTACTS.insert(key, Contact { refs: 1 }, NO_EXIST).is_ok()
}

/// Gives back a hold of a contact.
#[inline(never)]
pub fn release_contact(key: &ContactKey) -> bool {
    let Some(value) = CONTACTS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: map memory; `refs` is an aligned word.
    if unsafe { atomic_add(&raw mut (*value).refs, -1) } != 1 {
        return false;
    }
    CONTACTS.remove(key).is_ok()
}
