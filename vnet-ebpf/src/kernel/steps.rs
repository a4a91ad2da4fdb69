//! The steps of the gateway's slow path, each a global function: the verifier looks at those one by
//! one and not once for every way that leads to them (kernel/bpf/verifier.c, do_check_subprogs). They
//! take the program's context alone and find what they work on in the maps.

use aya_ebpf::bindings::__sk_buff;
use vnet_ebpf::{
    flow::table::{self, Inserted},
    gateway::Work,
    nat::{self, Outcome, Step},
};

use super::{
    maps::{SCRATCH, SWEEP_WORK, WORK},
    tables::Kernel,
    tc::Skb,
};

/// Declares a global function for each step, and the choice between them.
macro_rules! steps {
    ($($name:ident = $step:ident;)+) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name(ctx: *mut __sk_buff) -> u32 {
                take(Step::$step, ctx)
            }
        )+

        /// Takes a step for the packet of `ctx`.
        #[inline(always)]
        pub fn call(step: Step, ctx: *mut __sk_buff) -> Outcome {
            Outcome(match step {
                $(Step::$step => $name(ctx),)+
            })
        }
    };
}

steps! {
    step_read = Read;
    step_related = Related;
    step_stands = Stands;
    step_known = Known;
    step_target = Target;
    step_mapping = Mapping;
    step_route = Route;
    step_source = Source;
    step_rate = Rate;
    step_room = Room;
    step_way = Way;
    step_block = Block;
    step_map_source = MapSource;
    step_give_back = GiveBack;
    step_enter = Enter;
    step_contact = Contact;
    step_hold = Hold;
    step_watch = Watch;
    step_put = Put;
    step_book = Book;
    step_check_way = CheckWay;
    step_later_fragment = LaterFragment;
    step_of_nobody = OfNobody;
    step_prepare = Prepare;
    step_judge = Judge;
    step_reload = Reload;
    step_keep = Keep;
    step_policy_known = PolicyKnown;
    step_policy_related = PolicyRelated;
    step_policy_fill = PolicyFill;
    step_policy_renew = PolicyRenew;
    step_policy_book = PolicyBook;
}

#[inline(always)]
fn take(step: Step, ctx: *mut __sk_buff) -> u32 {
    let (Some(scratch), Some(work)) = (SCRATCH.get_ptr(0), WORK.get_ptr_mut(0)) else {
        return Outcome::STACK.0;
    };
    // A step that has no use for it must be called with it all the same.
    let ctx = core::hint::black_box(ctx);
    let kernel = Kernel { ctx: ctx.cast() };
    // SAFETY: this CPU's own, and no other program runs here until the frame is sent.
    unsafe {
        nat::take(
            step,
            &mut *work,
            &(*scratch).plan,
            &Skb { skb: ctx },
            &kernel,
        )
        .0
    }
}

/// Ends the connection in the work of a packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn step_close() -> u32 {
    WORK.get_ptr_mut(0).map_or(0, close_in)
}

/// Ends the connection in the work of expiry and of requests.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sweep_close() -> u32 {
    SWEEP_WORK.get_ptr_mut(0).map_or(0, close_in)
}

#[inline(always)]
fn close_in(work: *mut Work) -> u32 {
    // SAFETY: this CPU's own.
    u32::from(nat::close::close(unsafe { &mut *work }, &Kernel::bare()))
}

/// [`nat::close::close`], in the work of a packet or of a sweep.
#[inline(always)]
pub fn close(sweep: bool) -> bool {
    let closed = if sweep { sweep_close() } else { step_close() };
    closed != 0
}

/// [`nat::close::evict`], in the work of a packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_evict(ctx: *mut __sk_buff, beyond: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 0;
    };
    // As in `take`.
    let ctx = core::hint::black_box(ctx);
    let kernel = Kernel { ctx: ctx.cast() };
    // SAFETY: this CPU's own.
    u32::from(nat::close::evict(
        unsafe { &mut *work },
        beyond != 0,
        &kernel,
    ))
}

/// [`table::count_tag`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_count_tag(bucket: u32, tag: u32) -> u32 {
    table::count_tag(&Kernel::bare(), bucket, tag)
}

/// Puts one of the entries in the work of a packet into the table.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_insert(reply: u32) -> u32 {
    let Some(work) = WORK.get_ptr(0) else {
        return Inserted::Full.word();
    };
    // SAFETY: this CPU's own.
    let entry = unsafe {
        if reply != 0 {
            &(*work).reply
        } else {
            &(*work).forward
        }
    };
    table::insert(&Kernel::bare(), entry).word()
}

/// [`table::position`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_position(bucket: u32, tag: u32) -> u32 {
    table::position(&Kernel::bare(), bucket, tag)
}

/// [`table::claim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_claim(bucket: u32) -> u32 {
    table::claim(&Kernel::bare(), bucket)
}
