//! A virtual machine, from its configuration to its end.
//!
//! The guest's processors and a supervising thread run it. The supervisor waits for the
//! first reason to end, stops every processor, resets every device, and only then makes
//! the end known: whoever learns of it can take the disks away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::error::VmmError;
use super::exit::{Exit, ExitLatch};
use super::kvm::{self, KvmError};
use super::vcpu::{self, Shared};
use super::x86_64::cpuid::{self, Topology};
use super::x86_64::{acpi, boot, layout, registers};
use super::{command_line, memory};
use crate::devices::console::device::Console;
use crate::devices::console::log::ConsoleLog;
use crate::devices::rng::device::Rng;
use crate::devices::transport::bus::Bus;
use crate::devices::transport::mmio::Transport;
use crate::devices::transport::pci::bus::PciBus;
use crate::devices::{GuestMemory, VirtioDevice};

/// What a machine is made of.
#[derive(Debug)]
pub struct Configuration {
    /// An uncompressed x86-64 ELF kernel, or a bzImage.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: Vec<u8>,
    /// The whole command line; see [`command_line::build`].
    pub command_line: String,
    /// Memory in bytes; rounded down to 2 MiB.
    pub memory: u64,
    /// Processors.
    pub processors: u32,
    /// Whether the guest may use virtualization itself.
    pub nested_virtualization: bool,
    /// Where the kernel's log goes; see [`ConsoleLog`].
    pub console_log: PathBuf,
    /// Devices beside the console and the random number generator, which every machine
    /// has.
    pub devices: Vec<Box<dyn VirtioDevice>>,
}

/// A running machine. Clones are handles of the same one; when the last is dropped, the
/// machine is killed, and its end is not waited for.
#[derive(Clone, Debug)]
pub struct VirtualMachine {
    owner: Arc<Owner>,
}

/// Kills the machine when the last handle goes.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    ended: Arc<ExitLatch>,
}

impl Drop for Owner {
    /// Does not wait: the last handle may go on a thread that the end has to wait for.
    fn drop(&mut self) {
        self.shared.exit.set(Exit::Killed);
    }
}

impl VirtualMachine {
    /// Starts a machine.
    ///
    /// # Errors
    /// Any [`VmmError`]; nothing runs then and all devices have been dropped.
    pub fn start(configuration: Configuration) -> Result<Self, VmmError> {
        check(&configuration)?;
        vcpu::prepare_signals()?;
        let kvm = kvm::open()?;
        let maximum = u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX);
        check_processors(configuration.processors, maximum)?;

        let ranges = layout::memory_ranges(configuration.memory)?;
        let memory: GuestMemory = Arc::new(memory::map(&ranges)?);
        let vm = Arc::new(create_vm(&kvm)?);
        memory::register(&vm, &memory)?;

        let log = open_log(&configuration.console_log)?;
        let bus = attach_devices(&vm, &memory, configuration.devices, &log)?;
        let root = acpi::write(&memory, configuration.processors, bus.len())?;
        let entry = boot::load(
            &memory,
            &configuration.kernel,
            &configuration.initramfs,
            &configuration.command_line,
            root,
        )?;
        let topology = Topology {
            processors: configuration.processors,
            nested_virtualization: configuration.nested_virtualization,
        };
        let vcpus = create_processors(&kvm, &vm, topology, entry)?;

        let shared = Arc::new(Shared {
            bus,
            exit: ExitLatch::default(),
            log,
            stopping: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        supervise(Running { vm, memory, shared, vcpus })
    }

    /// Ends the machine, whatever the guest does; returns when all of it has ended.
    pub fn kill(&self) -> Exit {
        self.owner.shared.exit.set(Exit::Killed);
        self.owner.ended.wait()
    }

    /// Blocks until the machine has ended: no thread of it runs, no device holds
    /// anything.
    pub fn wait(&self) -> Exit {
        self.owner.ended.wait()
    }

    /// How the machine ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        self.owner.ended.get()
    }

    /// How long its processors have run, all together.
    pub fn processor_time(&self) -> Duration {
        self.owner.shared.processor_time()
    }

    /// The kernel's log.
    pub fn console_log(&self) -> &Arc<ConsoleLog> {
        &self.owner.shared.log
    }
}

/// What can be refused before anything is made.
fn check(configuration: &Configuration) -> Result<(), VmmError> {
    command_line::check(&configuration.command_line)?;
    check_processors(configuration.processors, layout::MAXIMUM_PROCESSORS)?;
    layout::memory_ranges(configuration.memory)?;
    // The console and the random number generator are always there.
    let maximum = layout::MAXIMUM_DEVICES - 2;
    let devices = configuration.devices.len();
    if devices > maximum { Err(VmmError::TooManyDevices { devices, maximum }) } else { Ok(()) }
}

fn check_processors(processors: u32, maximum: u32) -> Result<(), VmmError> {
    if (1..=maximum).contains(&processors) {
        Ok(())
    } else {
        Err(VmmError::ProcessorCount { processors, maximum })
    }
}

fn open_log(path: &Path) -> Result<Arc<ConsoleLog>, VmmError> {
    ConsoleLog::open(path)
        .map(Arc::new)
        .map_err(|source| VmmError::ConsoleLog { path: path.to_owned(), source })
}

/// Creates the machine with its interrupt controllers.
fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(KvmError::call("create a virtual machine"))?;
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(KvmError::call("set the identity map address"))?;
    vm.set_tss_address(layout::TSS).map_err(KvmError::call("set the TSS address"))?;
    vm.create_irq_chip().map_err(KvmError::call("create the interrupt controllers"))?;
    Ok(vm)
}

/// Puts every device behind its register window.
fn attach_devices(
    vm: &Arc<VmFd>,
    memory: &GuestMemory,
    devices: Vec<Box<dyn VirtioDevice>>,
    log: &Arc<ConsoleLog>,
) -> Result<Bus, VmmError> {
    let always: [Box<dyn VirtioDevice>; 2] =
        [Box::new(Console::new(Arc::clone(log))), Box::new(Rng::default())];
    let (busy, others): (Vec<_>, Vec<_>) = devices.into_iter().partition(|device| device.is_busy());
    let pci = PciBus::new(vm, memory, layout::PCI_START, busy)?;
    let mut transports = Vec::new();
    for (position, device) in always.into_iter().chain(others).enumerate() {
        let window = acpi::virtio_window(position);
        let transport = Transport::new(device, Arc::clone(memory))
            .map_err(|source| VmmError::Host { action: "create a device's events", source })?;
        transport.connect(vm, window.start, window.line)?;
        transports.push(transport);
    }
    Ok(Bus::new(layout::VIRTIO_START, layout::VIRTIO_LENGTH, transports, pci))
}

/// Creates the processors, the first one about to enter the kernel.
fn create_processors(
    kvm: &Kvm,
    vm: &VmFd,
    topology: Topology,
    entry: GuestAddress,
) -> Result<Vec<VcpuFd>, VmmError> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("tell the supported CPUID"))?;
    let mut vcpus = Vec::new();
    for number in 0..topology.processors {
        let vcpu =
            vm.create_vcpu(number.into()).map_err(KvmError::call("create a virtual processor"))?;
        let entries = cpuid::for_processor(&supported, topology, number).map_err(|error| {
            VmmError::Host { action: "build CPUID", source: io::Error::other(format!("{error:?}")) }
        })?;
        vcpu.set_cpuid2(&entries).map_err(KvmError::call("set CPUID"))?;
        registers::set_common(&vcpu)?;
        if number == 0 {
            registers::set_boot(&vcpu, entry)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// A machine whose threads are to be started.
struct Running {
    vm: Arc<VmFd>,
    memory: Arc<GuestMemoryMmap>,
    shared: Arc<Shared>,
    vcpus: Vec<VcpuFd>,
}

/// Starts the processors and the thread that ends the machine.
fn supervise(running: Running) -> Result<VirtualMachine, VmmError> {
    let Running { vm, memory, shared, vcpus } = running;
    let ended = Arc::new(ExitLatch::default());
    let threads: Arc<RwLock<Vec<JoinHandle<()>>>> = Arc::default();

    let supervisor = {
        let (shared, ended) = (Arc::clone(&shared), Arc::clone(&ended));
        let threads = Arc::clone(&threads);
        move || {
            let exit = shared.exit.wait();
            let running =
                std::mem::take(&mut *threads.write().unwrap_or_else(PoisonError::into_inner));
            vcpu::stop(running, &shared.stopping);
            shared.bus.remove_all();
            shared.log.close();
            // The machine goes before its memory.
            drop(vm);
            drop(memory);
            ended.set(exit);
        }
    };

    // Held until every thread is known to the supervisor.
    let mut known = threads.write().unwrap_or_else(PoisonError::into_inner);
    thread::Builder::new()
        .name("vm-supervisor".to_owned())
        .spawn(supervisor)
        .map_err(|source| VmmError::Host { action: "start the machine's thread", source })?;
    let machine = VirtualMachine { owner: Arc::new(Owner { shared: Arc::clone(&shared), ended }) };
    for (number, vcpu) in (0..).zip(vcpus) {
        match vcpu::spawn(number, vcpu, Arc::clone(&shared)) {
            Ok(thread) => known.push(thread),
            Err(error) => {
                drop(known);
                machine.kill();
                return Err(error);
            }
        }
    }
    drop(known);
    Ok(machine)
}
