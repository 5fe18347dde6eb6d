//! PID 1 of the lab's guests: mounts what a system has, runs the command of this run, sends what it
//! says over a serial line of its own, and powers off.
//!
//! The line carries frames: one byte of kind, four of length (little endian), the bytes. The host's
//! side is xtask/src/lab/wire.rs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    system::{RebootCommand, reboot},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

/// The serial line; the first is the kernel's console.
const LINE: &str = "/dev/ttyS1";
/// The command, NUL after each argument.
const COMMAND: &str = "/lab/command";
/// The environment, NUL after each NAME=VALUE.
const ENVIRONMENT: &str = "/lab/environment";

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;

type Wire = Arc<Mutex<File>>;

fn main() {
    // Under another name it is a command of the guest.
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let word = words.next().unwrap_or_default();
    match name.rsplit('/').next() {
        Some("symbol") => std::process::exit(symbol(&word)),
        Some("modprobe") => std::process::exit(modprobe(&word)),
        _ => {}
    }
    if let Err(e) = run() {
        eprintln!("guest-init: {e}");
    }
    rustix::fs::sync();
    // Where even this fails, PID 1 ends and the kernel panics, which the host sees too.
    let _ = reboot(RebootCommand::PowerOff);
}

fn run() -> io::Result<()> {
    mount_all();
    // The lab opens the kernel as this comes to devmem_is_allowed (xtask/src/lab/opened.rs); what it reads is nothing.
    let _ = File::open("/dev/mem").and_then(|mut memory| memory.read(&mut [0]));
    let wire = open_line()?;
    let status = match execute(&wire) {
        Ok(status) => status,
        Err(e) => {
            frame(&wire, STDERR, format!("guest-init: {e}\n").as_bytes())?;
            127
        }
    };
    frame(&wire, EXIT, &status.to_le_bytes())?;
    let line = wire
        .lock()
        .map_err(|_| io::Error::other("a reader panicked"))?;
    // Nothing may be left in the line when the power goes.
    rustix::termios::tcdrain(&*line)?;
    Ok(())
}

/// What a booted system has; what this kernel lacks is left out.
fn mount_all() {
    let mounts = [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("devpts", "/dev/pts", "devpts"),
        ("tmpfs", "/tmp", "tmpfs"),
        ("securityfs", "/sys/kernel/security", "securityfs"),
        ("debugfs", "/sys/kernel/debug", "debugfs"),
        ("tracefs", "/sys/kernel/tracing", "tracefs"),
    ];
    for (source, target, kind) in mounts {
        let _ = fs::create_dir_all(target);
        let _ = mount(source, target, kind, MountFlags::empty(), None);
    }
}

/// The line, as bytes and not as text.
fn open_line() -> io::Result<Wire> {
    let line = OpenOptions::new().read(true).write(true).open(LINE)?;
    let mut mode = tcgetattr(&line)?;
    mode.make_raw();
    tcsetattr(&line, OptionalActions::Now, &mode)?;
    Ok(Arc::new(Mutex::new(line)))
}

fn frame(wire: &Wire, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut line = wire
        .lock()
        .map_err(|_| io::Error::other("a reader panicked"))?;
    line.write_all(&[kind])?;
    line.write_all(&len.to_le_bytes())?;
    line.write_all(bytes)
}

/// Runs the command to its end; its exit status as a shell has it.
fn execute(wire: &Wire) -> io::Result<i32> {
    let arguments = nul_separated(COMMAND)?;
    let (program, arguments) = arguments
        .split_first()
        .ok_or_else(|| io::Error::other("there is no command"))?;
    let environment = nul_separated(ENVIRONMENT)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .envs(environment.iter().filter_map(|pair| pair.split_once('=')))
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{program}: {e}")))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let readers = [
        out.map(|pipe| forward(pipe, wire, STDOUT)),
        err.map(|pipe| forward(pipe, wire, STDERR)),
    ];
    let status = child.wait()?;
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn forward(mut pipe: impl Read + Send + 'static, wire: &Wire, kind: u8) -> thread::JoinHandle<()> {
    let wire = Arc::clone(wire);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = pipe.read(&mut buffer) {
            let sent = buffer.get(..n).map(|bytes| frame(&wire, kind, bytes));
            if n == 0 || !matches!(sent, Some(Ok(()))) {
                return;
            }
        }
    })
}

fn nul_separated(path: &str) -> io::Result<Vec<String>> {
    let text =
        fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// `symbol NAME` prints a kernel symbol's address.
fn symbol(name: &str) -> i32 {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let address = symbols.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (address, _kind, found) = (words.next()?, words.next()?, words.next()?);
        (found == name).then_some(address)
    });
    address
        .map(|address| println!("{address}"))
        .map_or(1, |()| 0)
}

/// `modprobe NAME` loads a module that the lab has put into the guest, and before it those that it needs.
fn modprobe(name: &str) -> i32 {
    match load(name) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("modprobe: {name}: {e}");
            1
        }
    }
}

fn load(name: &str) -> io::Result<()> {
    let folder = format!(
        "/lib/modules/{}",
        rustix::system::uname().release().to_string_lossy()
    );
    // The lab's xtask/src/lab/modules.rs writes it: `FILE: WHAT IT NEEDS`, what is loaded last first.
    let list = fs::read_to_string(format!("{folder}/modules.dep"))?;
    let (file, needed) = list
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _)| file.strip_suffix(".ko") == Some(name))
        .ok_or_else(|| io::Error::other("the lab carries no such module of this kernel"))?;
    for file in needed.split_whitespace().rev().chain([file]) {
        let module = File::open(format!("{folder}/{file}"))?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(io::Error::other(format!("{file}: {e}"))),
        }
    }
    Ok(())
}
