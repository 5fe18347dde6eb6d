//! One guest, from power-on to power-off.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Kernel, Nodes, Options, Sink,
    opened::{Opening, PLACED},
    wire::{Frame, Frames},
};
use crate::shell;

const CONSOLE: &str = "console";
const WIRE: &str = "wire";
const DEBUGGER: &str = "debugger";
/// How often the guest's files are looked at.
const TICK: Duration = Duration::from_millis(5);
/// Lines of the console that an error shows.
const LAST_LINES: usize = 20;

/// Boots `kernel` with `initrd`; gives the exit status of the command that ran there.
pub(super) fn run(
    options: &Options,
    kernel: &Kernel,
    initrd: &Path,
    run: &Path,
    sink: &mut dyn Sink,
) -> Result<i32> {
    let console = run.join(CONSOLE);
    let wire = run.join(WIRE);
    File::create(&console)?;
    let mut line = File::create_new(&wire).and_then(|_| File::open(&wire))?;
    let mut guest = start(options, kernel, initrd, run)?;
    let deadline = Instant::now() + options.timeout;
    let mut opening = match kernel.opening {
        Some(opening) => Some(start_opening(
            opening,
            &run.join(DEBUGGER),
            &mut guest,
            deadline,
        )?),
        None => None,
    };
    let mut frames = Frames::default();
    let mut status = None;
    loop {
        if let Some(done) = opening.take_if(|opening| opening.is_finished()) {
            done.join()
                .map_err(|_| anyhow::anyhow!("the opening of the kernel died"))??;
        }
        // In this order: what a guest wrote before it ended is read after it was seen to end.
        let ended = guest.0.try_wait().context("QEMU")?;
        let mut bytes = Vec::new();
        line.read_to_end(&mut bytes)?;
        frames.push(&bytes);
        while let Some(frame) = frames.next().map_err(|e| broken_line(&e, &console))? {
            match frame {
                Frame::Stdout(bytes) => sink.stdout(&bytes)?,
                Frame::Stderr(bytes) => sink.stderr(&bytes)?,
                Frame::Exit(code) => status = Some(code),
            }
        }
        match (ended, status) {
            (Some(_), Some(status)) => return Ok(status),
            (Some(how), None) => bail!(
                "the guest ended before its command did (QEMU: {how}){}",
                last_lines(&console)
            ),
            (None, _) if shell::interrupted() => bail!("interrupted; the guest was stopped"),
            (None, _) if Instant::now() > deadline => {
                let seconds = options.timeout.as_secs();
                bail!(
                    "the guest was not done after {seconds} s and was stopped{}",
                    last_lines(&console)
                )
            }
            (None, _) => thread::sleep(TICK),
        }
    }
}

fn broken_line(what: &str, console: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "the guest's serial line carries no frames ({what}){}",
        last_lines(console)
    )
}

/// A running QEMU, ended when this goes.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a thread open the kernel of `guest`; it ends with the guest, if not before.
fn start_opening(
    opening: Opening,
    socket: &Path,
    guest: &mut Guest,
    deadline: Instant,
) -> Result<JoinHandle<Result<()>>> {
    // QEMU makes it before the guest starts, but not before it has started itself.
    let line = loop {
        match UnixStream::connect(socket) {
            Ok(line) => break line,
            Err(e) if guest.0.try_wait()?.is_some() || Instant::now() > deadline => {
                return Err(e).context("QEMU's socket for a debugger");
            }
            Err(_) if shell::interrupted() => bail!("interrupted; the guest was stopped"),
            Err(_) => thread::sleep(TICK),
        }
    };
    Ok(thread::spawn(move || opening.open(line)))
}

fn start(options: &Options, kernel: &Kernel, initrd: &Path, run: &Path) -> Result<Guest> {
    let mut qemu = Command::new("qemu-system-x86_64");
    machine(&mut qemu, options);
    for line in [CONSOLE, WIRE] {
        let file = format!("file:{}", run.join(line).display());
        qemu.arg("-serial").arg(file);
    }
    boot(&mut qemu, options, kernel, initrd);
    if kernel.opening.is_some() {
        let socket = run.join(DEBUGGER);
        qemu.arg("-gdb")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
    }
    match options.nodes {
        Nodes::One => {}
        Nodes::Two => two_nodes(&mut qemu, options.memory, ["cpus=0", "cpus=1"]),
        Nodes::Tiers => {
            two_nodes(&mut qemu, options.memory, ["cpus=0-1", "initiator=0"]);
            two_speeds(&mut qemu);
        }
    }
    qemu.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(run.join("qemu"))?);
    ends_with_us(&mut qemu);
    qemu.spawn()
        .map(Guest)
        .context("cannot run qemu-system-x86_64")
}

fn machine(qemu: &mut Command, options: &Options) {
    let accelerator = if options.kvm {
        "kvm"
    } else {
        // One thread for all CPUs: with one each, QEMU 7.2 now and then runs a stale int3 of the kernel's
        // text patching, which attaching hooks does all the time, and the guest dies of it.
        "tcg,thread=single"
    };
    let machine = match options.nodes {
        Nodes::Tiers => "q35,hmat=on",
        Nodes::One | Nodes::Two => "q35",
    };
    qemu.args(["-machine", machine, "-accel", accelerator])
        // It has LA57, so five levels of page tables unless no5lvl says otherwise.
        .args(["-cpu", "max", "-smp", "2"])
        .args(["-m", &format!("{}M", options.memory)])
        .args(["-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot"])
        // A device that a driver of every kernel claims memory of; it has no disk.
        .args(["-device", "nvme,serial=v2p"]);
}

fn boot(qemu: &mut Command, options: &Options, kernel: &Kernel, initrd: &Path) {
    let placed = kernel
        .opening
        .map_or_else(String::new, |_| format!(" {PLACED}"));
    let line = format!("console=ttyS0 panic=-1 quiet {}{placed}", options.append);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.arg("-initrd").arg(initrd);
    qemu.arg("-append").arg(line);
}

/// Half of `memory` each, in MiB, and who uses it.
fn two_nodes(qemu: &mut Command, memory: u32, users: [&str; 2]) {
    for (node, user) in users.iter().enumerate() {
        let size = memory / 2;
        let backend = format!("memory-backend-ram,id=m{node},size={size}M");
        let numa = format!("node,nodeid={node},{user},memdev=m{node}");
        qemu.args(["-object", &backend, "-numa", &numa]);
    }
}

/// Has the firmware say (HMAT) that the second node's memory takes ten times as long and carries a tenth: far enough apart for two tiers
/// (mt_perf_to_adistance, mm/memory-tiers.c, 6.12 and 7.3).
fn two_speeds(qemu: &mut Command) {
    for (node, latency, bandwidth) in [(0, "10", "10G"), (1, "100", "1G")] {
        let way = format!("hmat-lb,initiator=0,target={node},hierarchy=memory,data-type=access");
        qemu.args(["-numa", &format!("{way}-latency,latency={latency}")]);
        qemu.args(["-numa", &format!("{way}-bandwidth,bandwidth={bandwidth}")]);
    }
}

/// However we end, also by SIGKILL, no QEMU stays behind.
fn ends_with_us(qemu: &mut Command) {
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe {
        qemu.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
}

fn last_lines(console: &Path) -> String {
    let mut text = String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned();
    let errors = fs::read_to_string(console.with_file_name("qemu")).unwrap_or_default();
    text.push_str(&errors);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        return "; its console is empty".to_owned();
    }
    let last = lines
        .get(lines.len().saturating_sub(LAST_LINES)..)
        .unwrap_or_default();
    format!("; the last lines of its console:\n  {}", last.join("\n  "))
}
