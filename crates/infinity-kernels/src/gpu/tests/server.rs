//! The device of paper, as CubeCL asks a device: it keeps no memory, compiles what is launched, and is never asked for
//! numbers.

use burn_cubecl::cubecl::bytes::Bytes;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::cuda::compiler::CudaBackend;
use burn_cubecl::cubecl::cuda::{
    CudaCompilationOptions, CudaCompiler, CudaRepresentation, CudaRuntime,
};
use burn_cubecl::cubecl::features::{MmaConfig, Plane, TypeUsage};
use burn_cubecl::cubecl::future::DynFut;
use burn_cubecl::cubecl::ir::nvidia::SmArch;
use burn_cubecl::cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    IntKind, MemoryDeviceProperties, UIntKind,
};
use burn_cubecl::cubecl::logging::ServerLogger;
use burn_cubecl::cubecl::profile::{ProfileDuration, TimingMethod};
use burn_cubecl::cubecl::server::*;
use burn_cubecl::cubecl::zspace::{Shape, Strides};
use burn_cubecl::cubecl::{Compiler, CubeCount, CubeKernel, MemoryAllocationMode, define_kernel};
use cubecl_common::device::{DeviceId, DeviceService, ServerUtilitiesHandle, ServiceId};
use cubecl_environment::stream::StreamId;
use cubecl_runtime::dry_run::LaunchMode;
use cubecl_runtime::memory_management::{ManagedMemoryHandle, StreamMemoryReport};
use cubecl_runtime::runtime::Runtime;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// PTX of every kernel, or why there is none.
type Compiled = BTreeMap<String, Result<Vec<u8>, String>>;

static COMPILED: Mutex<Compiled> = Mutex::new(Compiled::new());

/// The client of the device of paper.
pub(super) fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        let device = DeviceId::new(99, 0);
        Client::init(device, Paper::init(device))
    });
    client.clone()
}

/// What was compiled so far.
pub(super) fn compiled() -> Compiled {
    drop(burn_cubecl::cubecl::future::block_on(client().sync()));
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut all)
}

#[derive(Debug)]
struct Paper {
    utilities: Arc<ServerUtilities>,
}

/// An H100, as far as kernels ask.
fn hopper() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 227 * 1024,
        max_cube_count: (2_147_483_647, 65_535, 65_535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(132),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: 16,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity = DeviceIdentity {
        name: "paper".to_owned(),
        fingerprint: "ptx_sm90".to_owned(),
        physical: None,
    };
    let memory = MemoryDeviceProperties::new(20 << 30, 512);
    let timing = TimingMethod::System;
    let mut all = DeviceProperties::new(Default::default(), memory, hardware, timing, identity);
    all.register_address_type(AddressType::U32);
    all.register_address_type(AddressType::U64);
    let types = [
        ElemType::Index,
        ElemType::Bool,
        ElemType::UInt(UIntKind::U32),
        ElemType::UInt(UIntKind::U64),
        ElemType::Int(IntKind::I32),
        ElemType::Int(IntKind::I64),
        ElemType::Float(FloatKind::BF16),
        ElemType::Float(FloatKind::F16),
        ElemType::Float(FloatKind::F32),
    ];
    for kind in types {
        all.register_type_usage(kind, TypeUsage::all());
    }
    let matmul = &mut all.features.matmul.cmma;
    for kind in [FloatKind::BF16, FloatKind::F16] {
        let [a_type, b_type] = [ElemType::Float(kind); 2];
        let cd_type = ElemType::Float(FloatKind::F32);
        matmul.insert(MmaConfig {
            a_type,
            b_type,
            cd_type,
            m: 16,
            n: 16,
            k: 16,
        });
    }
    all.features.plane.insert(Plane::Ops);
    all.features.plane.insert(Plane::Sync);
    all
}

impl DeviceService for Paper {
    fn init(device: DeviceId) -> Self {
        let (utilities, _) = ServerUtilities::init(
            ServiceId::of::<Self>(device),
            "paper",
            hopper(),
            CudaRuntime::target_properties(),
            Arc::new(ServerLogger::default()),
            Contiguous,
        );
        let utilities = Arc::new(utilities);
        Paper { utilities }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

/// Tensors one behind the other.
struct Contiguous;

impl MemoryLayoutPolicy for Contiguous {
    fn apply(
        &self,
        service: ServiceId,
        stream: StreamId,
        descriptors: &[MemoryLayoutDescriptor],
    ) -> (Handle, Vec<MemoryLayout>) {
        let bytes = |one: &MemoryLayoutDescriptor| {
            (one.shape.iter().product::<usize>() * one.elem_size).next_multiple_of(512) as u64
        };
        let all: u64 = descriptors.iter().map(bytes).sum();
        let base = Handle::new(service, stream, all);
        let mut start = 0;
        let part = |one: &MemoryLayoutDescriptor| {
            let end = start + bytes(one);
            let handle = base.clone().offset_start(start).offset_end(all - end);
            start = end;
            MemoryLayout::new(handle, strides(&one.shape))
        };
        let parts = descriptors.iter().map(part).collect();
        (base, parts)
    }
}

fn strides(shape: &Shape) -> Strides {
    let mut strides: Vec<usize> = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    Strides::from(strides.as_slice())
}

impl ServerCommunication for Paper {}

impl Server for Paper {
    fn initialize_memory(
        &mut self,
        _memory: ManagedMemoryHandle,
        _size: u64,
        _stream: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities> {
        self.utilities.clone()
    }

    fn read(
        &mut self,
        descriptors: Vec<CopyDescriptor>,
        _stream: StreamId,
    ) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        let zeros = |one: &CopyDescriptor| {
            Bytes::from_elems(vec![
                0u8;
                one.shape.iter().product::<usize>() * one.elem_size
            ])
        };
        let all = descriptors.iter().map(zeros).collect();
        Box::pin(async move { Ok(all) })
    }

    fn write(&mut self, _descriptors: Vec<(CopyDescriptor, Bytes)>, _stream: StreamId) {}

    fn sync(
        &mut self,
        _handles: Vec<BufferBinding>,
        _stream: StreamId,
    ) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn check(
        &mut self,
        _handles: Vec<BufferBinding>,
        _stream: StreamId,
    ) -> Result<(), ServerError> {
        Ok(())
    }

    // SAFETY: nothing runs.
    unsafe fn launch(
        &mut self,
        kernel: Box<dyn CubeKernel>,
        _count: CubeCount,
        _bindings: KernelArguments,
        _stream: StreamId,
        _mode: LaunchMode,
    ) {
        // Of this crate, and what its kernels are generic in is told by the name of the entry.
        if !kernel.name().starts_with("infinity_kernels::") {
            return;
        }
        let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, ptx) = ptx(&*kernel);
        all.entry(name).or_insert(ptx);
    }

    fn flush(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_report(&mut self, _stream: StreamId) -> Option<StreamMemoryReport> {
        None
    }

    fn memory_cleanup(&mut self, _stream: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn start_profile(&mut self, _stream: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(ServerError::graph_state("paper has no time"))
    }

    fn end_profile(
        &mut self,
        _stream: StreamId,
        _token: ProfilingToken,
    ) -> Result<ProfileDuration, ProfileError> {
        unreachable!("no profile was started")
    }

    fn allocation_mode(&mut self, _mode: MemoryAllocationMode, _stream: StreamId) {}
}

/// The operator's and the kernel's name with its types, and its PTX.
fn ptx(kernel: &dyn CubeKernel) -> (String, Result<Vec<u8>, String>) {
    let path = kernel.name().split('<').next().unwrap_or_default();
    let operator = path.split("::").nth(1).unwrap_or_default().to_owned();
    let definition = match define_kernel(kernel) {
        Ok(definition) => definition,
        Err(error) => return (path.replace("::", "."), Err(error.to_string())),
    };
    let name = format!("{operator}.{}", definition.settings.kernel_name);
    let mut options = CudaCompilationOptions::default();
    options.arch = Some(SmArch::new(90, true));
    // As the runtime has it from compute capability 7.0 on.
    options.cpp.supports_features.grid_constants = true;
    let compiled = CudaCompiler::new(CudaBackend::Llvm).compile(definition, &options);
    let ptx = match compiled {
        Ok(CudaRepresentation::Llvm(module)) => {
            let bytes = module.ptx.iter().map(|byte| byte.to_ne_bytes()[0]);
            Ok(bytes.take_while(|byte| *byte != 0).collect())
        }
        Ok(_) => Err("no PTX".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    (name, ptx)
}

/// No memory.
#[derive(Debug)]
struct Nowhere;

impl ComputeStorage for Nowhere {
    type Resource = ();

    fn alignment(&self) -> usize {
        512
    }

    fn get(&mut self, _handle: &StorageHandle) -> Result<(), IoError> {
        Ok(())
    }

    fn alloc(&mut self, _size: u64) -> Result<StorageHandle, IoError> {
        unreachable!("paper keeps no memory")
    }

    fn dealloc(&mut self, _id: StorageId) {}

    fn flush(&mut self) {}

    fn bytes_allocated(&self) -> u64 {
        0
    }
}

impl ServerStorage for Paper {
    type Storage = Nowhere;

    fn get_resource(
        &mut self,
        _binding: BufferBinding,
        _stream: StreamId,
    ) -> Result<ManagedResource<()>, ServerError> {
        unreachable!("paper keeps no memory")
    }
}
