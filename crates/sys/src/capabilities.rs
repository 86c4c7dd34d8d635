//! Capabilities (capabilities(7)): what a process keeps of root's privilege, for good. For `confine` and `enclosure`.

use std::io;

use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    #[default]
    Nothing,
    /// What makes places for others: mounts; bounding sets; user namespaces in which root is itself
    /// (user_namespaces(7), since Linux 5.12).
    #[cfg_attr(not(feature = "confine"), expect(dead_code, reason = "for managers"))]
    Places,
}

impl Kept {
    fn set(self) -> CapabilitySet {
        match self {
            Kept::Nothing => CapabilitySet::empty(),
            Kept::Places => {
                CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP | CapabilitySet::SETFCAP
            }
        }
    }
}

/// Takes all capabilities but these from the calling thread, for good: others cannot come back by exec, since they are
/// gone from the bounding set too. If none is kept, root's special role is off as well. What is kept, programs of root
/// that are started from here have, too.
pub(crate) fn keep_only(kept: Kept) -> io::Result<()> {
    let kept = kept.set();
    rustix::thread::clear_ambient_capability_set()?;
    let have = rustix::thread::capabilities(None)?;
    // Only a process that may can do the two: one that may not has nothing to lose by them.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if kept.contains(one) {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL) => break, // behind the last
                Err(error) => return Err(error.into()),
            }
        }
        if kept.is_empty() {
            rustix::thread::set_capabilities_secure_bits(
                CapabilitiesSecureBits::NO_ROOT
                    | CapabilitiesSecureBits::NO_ROOT_LOCKED
                    | CapabilitiesSecureBits::NO_SETUID_FIXUP
                    | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
                    | CapabilitiesSecureBits::KEEP_CAPS_LOCKED,
            )?;
        }
    }
    let sets = CapabilitySets {
        effective: have.effective & kept,
        permitted: have.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}
