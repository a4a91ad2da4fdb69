//! Reading words from bytes whose alignment the compiler does not know.

/// Four bytes as a word in their own order.
///
/// The compiler reads bytes one by one where it does not know their alignment, which is most of the
/// time that a packet takes here. Machines that BPF programs are compiled to read them at once,
/// aligned or not, and the verifier knows of those that do not (kernel/bpf/verifier.c,
/// check_ptr_alignment).
#[inline(always)]
#[must_use]
pub fn word(bytes: &[u8; 4]) -> u32 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: four bytes; a load of the BPF machine has no alignment of its own.
    unsafe {
        core::ptr::read_volatile(bytes.as_ptr().cast())
    }
    #[cfg(not(target_arch = "bpf"))]
    u32::from_ne_bytes(*bytes)
}

/// The word at `offset` of an array. The caller's offsets are constants below `N - 3`.
#[inline(always)]
#[must_use]
pub fn word_at<const N: usize>(bytes: &[u8; N], offset: usize) -> u32 {
    // SAFETY: within the array: every caller's offset is a constant that leaves four bytes.
    word(unsafe { &*bytes.as_ptr().add(offset).cast() })
}

/// Writes a word, in its own order, at `offset` of an array: the opposite of [`word_at`].
#[inline(always)]
pub fn put_word_at<const N: usize>(bytes: &mut [u8; N], offset: usize, word: u32) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: as in `word_at` and `word`.
    unsafe {
        core::ptr::write_volatile(bytes.as_mut_ptr().add(offset).cast(), word);
    }
    #[cfg(not(target_arch = "bpf"))]
    bytes[offset..offset + 4].copy_from_slice(&word.to_ne_bytes());
}

/// Writes three words one after another, in their own order.
#[inline(always)]
pub fn put_12<const N: usize>(bytes: &mut [u8; N], offset: usize, words: [u32; 3]) {
    put_word_at(bytes, offset, words[0]);
    put_word_at(bytes, offset + 4, words[1]);
    put_word_at(bytes, offset + 8, words[2]);
}

/// Copies a MAC address.
#[inline(always)]
pub fn copy_mac(to: &mut [u8; 6], from: &[u8; 6]) {
    put_word_at(to, 0, word_at(from, 0));
    // SAFETY: the last two of six bytes; otherwise as in `word`.
    #[cfg(target_arch = "bpf")]
    unsafe {
        let half = core::ptr::read_volatile(from.as_ptr().add(4).cast::<u16>());
        core::ptr::write_volatile(to.as_mut_ptr().add(4).cast::<u16>(), half);
    }
    #[cfg(not(target_arch = "bpf"))]
    to[4..].copy_from_slice(&from[4..]);
}

/// Three words, in their own order, as bytes.
#[inline(always)]
#[must_use]
pub const fn bytes_of(words: [u32; 3]) -> [u8; 12] {
    let (a, b, c) = (
        words[0].to_ne_bytes(),
        words[1].to_ne_bytes(),
        words[2].to_ne_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3],
    ]
}

/// A type of which every bit pattern of zeroes is a value, as long as a multiple of eight bytes and
/// aligned to eight.
///
/// # Safety
/// As said.
pub unsafe trait Zero {}

// SAFETY: plain data; the sizes are asserted where zeroes are written.
unsafe impl Zero for vnet_common::FlowEntry {}
// SAFETY: as above.
unsafe impl Zero for vnet_common::Event {}
// SAFETY: as above.
unsafe impl Zero for crate::guard::Sight {}

/// Writes zeroes word by word: the compiler would call a function that writes byte by byte.
#[inline(always)]
pub fn zero<T: Zero>(value: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
    // SAFETY: the trait's promise.
    unsafe { zero_words(core::ptr::from_mut(value).cast(), size_of::<T>() / 8) };
}

/// # Safety
/// `words` points to so many words.
#[inline(always)]
pub unsafe fn zero_words(words: *mut u64, count: usize) {
    let mut i = 0;
    while i < count {
        // SAFETY: the caller's promise. Volatile, so that it stays what it is.
        unsafe { core::ptr::write_volatile(words.add(i), 0) };
        i += 1;
    }
}

/// Writes a value on its own. Of several small ones side by side that are zero the compiler would make
/// a call of a function that writes byte by byte.
#[inline(always)]
pub fn put<T: Copy>(place: &mut T, value: T) {
    // SAFETY: a reference is valid to write to; nothing that is `Copy` is dropped.
    unsafe { core::ptr::write_volatile(place, value) };
}

/// Writes sixteen bytes, given as words in their own order.
#[inline(always)]
pub fn put_words(to: &mut [u8; 16], words: [u32; 4]) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: sixteen bytes, as in `word`.
    unsafe {
        let to = to.as_mut_ptr().cast::<u64>();
        let half = |low: u32, high: u32| low as u64 | (high as u64) << 32;
        core::ptr::write_volatile(to, half(words[0], words[1]));
        core::ptr::write_volatile(to.add(1), half(words[2], words[3]));
    }
    #[cfg(not(target_arch = "bpf"))]
    for (place, word) in to.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
}
