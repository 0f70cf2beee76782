//! The adapter as the transport sees it.

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_SCSI;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::MAXIMUM_UNITS;
use super::bus::ScsiBus;
use super::pool::Pool;
use super::state::ScsiState;
use super::wire::{self, Configuration, Event};
use super::worker::{self as scsi_worker, Context};
use crate::devices::worker::Worker;
use crate::devices::{Activation, ActivationError, VirtioDevice, read_space};

const CONTROL_QUEUE_SIZE: u16 = 64;
const REQUEST_QUEUE_SIZE: u16 = 256;
const MAXIMUM_REQUEST_QUEUES: u32 = 4;

/// The largest command descriptor block and sense data a driver may ask for, in bytes.
const MAXIMUM_DRIVER_SIZE: u32 = 256;

/// The adapter.
#[derive(Debug)]
pub struct ScsiDevice {
    bus: ScsiBus,
    queue_sizes: Vec<u16>,
    configuration: Configuration,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    context: Context,
    workers: Vec<Worker>,
}

impl ScsiDevice {
    /// An adapter for the disks of `bus` in a VM with that many processors.
    #[must_use]
    pub fn new(bus: ScsiBus, processors: u32) -> Self {
        let queues = processors.clamp(1, MAXIMUM_REQUEST_QUEUES);
        let mut queue_sizes = vec![CONTROL_QUEUE_SIZE; 2];
        queue_sizes.extend((0..queues).map(|_| REQUEST_QUEUE_SIZE));
        let configuration = Configuration {
            queues: queues.into(),
            // Two more descriptors are the request and the response.
            segments: (u32::from(REQUEST_QUEUE_SIZE) - 2).into(),
            sectors: 0xffff.into(),
            commands: 128.into(),
            event_size: (size_of::<Event>() as u32).into(),
            sense_size: wire::SENSE_SIZE.into(),
            cdb_size: wire::CDB_SIZE.into(),
            channel: 0.into(),
            target: 0.into(),
            lun: (u32::from(MAXIMUM_UNITS) - 1).into(),
        };
        Self { bus, queue_sizes, configuration, running: None }
    }

    /// What a snapshot would hold.
    #[must_use]
    pub fn state(&self) -> ScsiState {
        ScsiState {
            sense_size: self.configuration.sense_size.get(),
            cdb_size: self.configuration.cdb_size.get(),
            ..self.bus.state()
        }
    }

    /// Ends all threads, and with them every use of guest memory.
    fn stop(&mut self) {
        let Some(Running { context, workers }) = self.running.take() else { return };
        drop(workers);
        context.pool.drain();
        self.bus.disconnect();
    }

    fn start(&mut self, activation: Activation) -> Result<(), ActivationError> {
        let context = Context {
            bus: self.bus.clone(),
            pool: Pool::default(),
            cdb_size: self.configuration.cdb_size.get() as usize,
            sense_size: self.configuration.sense_size.get() as usize,
        };
        let running =
            self.running.insert(Running { context: context.clone(), workers: Vec::new() });
        context.pool.start().map_err(resources)?;
        let mut queues = activation.rings();
        let (Some((control, control_notified)), Some((events, events_notified))) =
            (queues.next(), queues.next())
        else {
            return Err(resources(std::io::ErrorKind::InvalidInput.into()));
        };
        for (index, (ring, notified)) in
            queues.enumerate().filter(|(_, (ring, _))| !ring.is_broken())
        {
            let name = match index {
                0 => "scsi-queue0",
                1 => "scsi-queue1",
                2 => "scsi-queue2",
                _ => "scsi-queue3",
            };
            let thread = scsi_worker::start_requests(context.clone(), name, ring, notified)?;
            running.workers.push(thread);
        }
        self.bus.connect(events);
        let thread =
            scsi_worker::start_control(context, control, control_notified, events_notified)?;
        running.workers.push(thread);
        Ok(())
    }
}

fn resources(source: std::io::Error) -> ActivationError {
    ActivationError::Resources { device: "scsi", source }
}

impl VirtioDevice for ScsiDevice {
    fn name(&self) -> &'static str {
        "scsi"
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_SCSI
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | wire::F_HOTPLUG
            | wire::F_CHANGE
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_space(self.configuration.as_bytes(), offset, data);
    }

    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        let Ok((value, [])) = zerocopy::byteorder::little_endian::U32::read_from_prefix(data)
        else {
            return;
        };
        if self.running.is_some() || value.get() > MAXIMUM_DRIVER_SIZE {
            return;
        }
        match offset {
            20 => self.configuration.sense_size = value,
            24 => self.configuration.cdb_size = value,
            _ => {}
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivationError> {
        self.stop();
        let started = self.start(activation);
        if started.is_err() {
            self.stop();
        }
        started
    }

    fn reset(&mut self) {
        self.configuration.sense_size = wire::SENSE_SIZE.into();
        self.configuration.cdb_size = wire::CDB_SIZE.into();
        self.stop();
    }
}

impl Drop for ScsiDevice {
    fn drop(&mut self) {
        self.stop();
    }
}
