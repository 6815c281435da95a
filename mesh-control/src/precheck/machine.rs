//! The machine: whose processor time is taken, how many cores there are, which kernel, how many files may be open.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Check, Verdict};

/// Above this share of the processors' time, in thousandths, a guest waits for its host often enough to be seen in the slowest calls.
const TOLERATED_STEAL: u64 = 20;
/// `getrandom` (Linux 3.17), without which keys could be made before there is any entropy.
const OLDEST_KERNEL: (u32, u32) = (3, 17);
/// Each connection takes a descriptor, and a control plane has one for each client.
const FEW_FILES: u64 = 4096;
/// What the kernel's own pool counts as full since 5.18; older ones count bits up to 4096, and below this keys may have to wait.
const LITTLE_ENTROPY: u64 = 128;

/// What was read of a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `/proc/stat`, before; `None`: it is taken since the machine was started.
    pub before: Option<Text>,
    /// `/proc/stat`, after.
    pub after: Text,
    /// `/proc/self/limits`.
    pub limits: Text,
    /// `/proc/sys/kernel/osrelease`.
    pub kernel: Text,
    /// `/proc/sys/kernel/random/entropy_avail`.
    pub entropy: Text,
}

/// A file, or why it cannot be read.
type Text = Result<String, String>;

impl Machine {
    /// Reads what stands in `proc`, and looks at processors for so long. It blocks for that time.
    pub fn read(proc: &Path, sample: Duration) -> Self {
        let read = |name: &str| {
            let text: io::Result<String> = fs::read_to_string(proc.join(name));
            text.map_err(|error| format!("{}: {error}", proc.join(name).display()))
        };
        let before = (!sample.is_zero()).then(|| {
            let before = read("stat");
            thread::sleep(sample);
            before
        });
        Self {
            before,
            after: read("stat"),
            limits: read("self/limits"),
            kernel: read("sys/kernel/osrelease"),
            entropy: read("sys/kernel/random/entropy_avail"),
        }
    }

    /// Everything there is to say about it.
    pub fn checks(&self) -> Vec<Check> {
        vec![
            cpu_steal(self.before.as_ref(), &self.after),
            cores(&self.after),
            kernel(&self.kernel),
            open_files(&self.limits),
            entropy(&self.entropy),
        ]
    }
}

/// What processors did: all ticks, and those that the host gave to somebody else.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
    let steal = *fields.get(7)?;
    let all = fields[..8]
        .iter()
        .try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks))?;
    Some((all, steal))
}

/// How much of the processors' time the host gave to others.
pub fn cpu_steal(before: Option<&Text>, after: &Text) -> Check {
    const NAME: &str = "cpu-steal";
    let read = |text: &Text| match text {
        Ok(text) => ticks(text).ok_or_else(|| "no line of all processors in /proc/stat".to_owned()),
        Err(why) => Err(why.clone()),
    };
    let (earlier, later) = match (before.map_or(Ok((0, 0)), read), read(after)) {
        (Ok(earlier), Ok(later)) => (earlier, later),
        (Err(why), _) | (_, Err(why)) => return Check::unknown(NAME, &why),
    };
    let since = if before.is_some() {
        "while it was looked at"
    } else {
        "since the machine was started"
    };
    let (all, steal) = (later.0.saturating_sub(earlier.0), later.1.saturating_sub(earlier.1));
    if all == 0 {
        return Check::unknown(NAME, "no time passed");
    }
    let share = u64::try_from(u128::from(steal) * 1_000 / u128::from(all)).unwrap_or(u64::MAX);
    let figure = format!("{}.{} % {since}", share / 10, share % 10);
    match share > TOLERATED_STEAL {
        false => Check::new(NAME, Verdict::Ok, figure),
        true => {
            let message = format!(
                "{figure}: above 2 % latency is the host's fault and no measurement of it is worth anything; ask for other cores"
            );
            Check::new(NAME, Verdict::Warning, message)
        }
    }
}

/// How many processors there are.
pub fn cores(stat: &Text) -> Check {
    const NAME: &str = "cores";
    let stat = match stat {
        Ok(stat) => stat,
        Err(why) => return Check::unknown(NAME, why),
    };
    let is_core = |line: &&str| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    match stat.lines().filter(is_core).count() {
        0 => Check::unknown(NAME, "no processor in /proc/stat"),
        1 => Check::new(NAME, Verdict::Warning, "1: whatever else runs there delays every call"),
        many => Check::new(NAME, Verdict::Ok, many.to_string()),
    }
}

/// Which kernel it is.
pub fn kernel(release: &Text) -> Check {
    const NAME: &str = "kernel";
    let release = match release {
        Ok(release) => release.trim(),
        Err(why) => return Check::unknown(NAME, why),
    };
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Check::unknown(NAME, &format!("{release:?} is no version"));
    };
    match (major, minor) < OLDEST_KERNEL {
        false => Check::new(NAME, Verdict::Ok, release),
        true => Check::new(
            NAME,
            Verdict::Error,
            format!("{release}: older than 3.17, which makes keys without waiting for entropy"),
        ),
    }
}

/// How many files, and so connections, a process may have.
pub fn open_files(limits: &Text) -> Check {
    const NAME: &str = "open-files";
    let limits = match limits {
        Ok(limits) => limits,
        Err(why) => return Check::unknown(NAME, why),
    };
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut words = line.unwrap_or_default().split_whitespace();
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        word => word.parse().ok(),
    };
    let (Some(soft), Some(hard)) = (words.next().and_then(number), words.next().and_then(number)) else {
        return Check::unknown(NAME, "no line of open files in /proc/self/limits");
    };
    let text = if soft == u64::MAX {
        "unlimited".to_owned()
    } else {
        soft.to_string()
    };
    match soft < FEW_FILES {
        false => Check::new(NAME, Verdict::Ok, text),
        true => {
            let most = if hard == u64::MAX {
                "unlimited".to_owned()
            } else {
                hard.to_string()
            };
            let message =
                format!("{text}: each connection takes one, so raise it (`ulimit -n`, LimitNOFILE); {most} is allowed");
            Check::new(NAME, Verdict::Warning, message)
        }
    }
}

/// Whether keys can be made at once.
pub fn entropy(available: &Text) -> Check {
    const NAME: &str = "entropy";
    match available.as_ref().map(|text| text.trim().parse::<u64>()) {
        Ok(Ok(bits)) if bits < LITTLE_ENTROPY => Check::new(
            NAME,
            Verdict::Warning,
            format!("{bits} bits: the first keys may have to wait"),
        ),
        Ok(Ok(bits)) => Check::new(NAME, Verdict::Ok, format!("{bits} bits")),
        Ok(Err(_)) => Check::unknown(NAME, "no number in entropy_avail"),
        Err(why) => Check::unknown(NAME, why),
    }
}
