//! Which words of the segment an operation loads, and when

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, Register, UsedMemory,
};
use nix::libc::user_regs_struct;
use std::collections::{HashMap, HashSet};
use std::fs;

/// Longest instruction, in bytes.
const LONGEST: usize = 15;
/// Numbers of system calls that read a file at an offset, and that map one.
const PREAD: u64 = 17;
const MMAP: u64 = 9;

/// A load of a word, which is 8 bytes aligned to 8.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many instructions come before.
    pub step: usize,
    /// Offset of the word in the segment.
    pub at: u64,
    /// Whether it has been loaded before.
    pub is_again: bool,
}

/// What one instruction does with memory.
struct Reads {
    instruction: Instruction,
    memory: Vec<UsedMemory>,
}

/// Finds the loads of a victim. Its code is that of its parent.
pub struct Observer {
    factory: InstructionInfoFactory,
    known: HashMap<u64, Reads>,
    /// Where the victim has the segment mapped, from its beginning on.
    ranges: Vec<(u64, u64)>,
    /// Something has just been mapped.
    is_stale: bool,
    seen: HashSet<u64>,
    pub loads: Vec<Load>,
    /// The address of each instruction.
    pub path: Vec<u64>,
}

impl Observer {
    pub fn new() -> Self {
        Self {
            factory: InstructionInfoFactory::new(),
            known: HashMap::new(),
            ranges: Vec::new(),
            is_stale: false,
            seen: HashSet::new(),
            loads: Vec::new(),
            path: Vec::new(),
        }
    }

    /// Another victim, at the beginning of another operation.
    pub fn begin(&mut self, pid: i32, name: &str) {
        self.loads.clear();
        self.path.clear();
        self.seen.clear();
        self.look(pid, name);
    }

    fn look(&mut self, pid: i32, name: &str) {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let range = |line: &str| {
            let mut fields = line.split_whitespace();
            let (first, end) = fields.next().unwrap().split_once('-').unwrap();
            let offset = u64::from_str_radix(fields.nth(1).unwrap(), 16).unwrap();
            let [first, end] = [first, end].map(|text| u64::from_str_radix(text, 16).unwrap());
            (first - offset, end)
        };
        self.ranges = maps.lines().filter(|line| line.contains(name)).map(range).collect();
    }

    /// The victim is about to execute the next instruction.
    pub fn observe(&mut self, registers: &user_regs_struct, pid: i32, name: &str) {
        let step = self.path.len();
        let at = registers.rip;
        self.path.push(at);
        let reads = self.known.entry(at).or_insert_with(|| Reads::at(at, &mut self.factory));
        let mut words = Vec::new();
        if reads.instruction.code() == Code::Syscall {
            // A copy of the file is a load, too, of its words one by one. (Of other files it does no harm to think so.)
            if registers.rax == PREAD {
                words.extend((registers.r10..registers.r10 + registers.rdx.min(4096)).step_by(8));
            }
            self.is_stale = registers.rax == MMAP;
        } else if std::mem::take(&mut self.is_stale) {
            self.look(pid, name);
        }
        let reads = &self.known[&at];
        for memory in &reads.memory {
            let value = |register, _, _| Some(value(registers, register));
            let Some(address) = memory.virtual_address(0, value) else { continue };
            let len = memory.memory_size().size().max(1) as u64;
            let range = self.ranges.iter().find(|(first, end)| address >= *first && address + len <= *end);
            let Some((first, _)) = range else { continue };
            let offset = address - first;
            words.extend((offset & !7..offset + len).step_by(8));
        }
        for at in words {
            let is_again = !self.seen.insert(at);
            self.loads.push(Load { step, at, is_again });
        }
    }
}

impl Reads {
    fn at(address: u64, factory: &mut InstructionInfoFactory) -> Self {
        // SAFETY: code that the victim is about to execute, which is this process's too. It may be shorter, but a page of code is
        // followed by more of the same file, and never by the end of what is mapped.
        let code = unsafe { std::slice::from_raw_parts(address as *const u8, LONGEST) };
        let instruction = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
        let is_read = |memory: &&UsedMemory| {
            use OpAccess::{CondRead, Read, ReadCondWrite, ReadWrite};
            matches!(memory.access(), Read | CondRead | ReadWrite | ReadCondWrite)
        };
        let memory = factory.info(&instruction).used_memory().iter().filter(is_read).copied().collect();
        Self { instruction, memory }
    }
}

/// What is in a register. Those of vectors are no part of an address here.
fn value(registers: &user_regs_struct, register: Register) -> u64 {
    match register {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        _ => 0,
    }
}
