!> residuum for Fortran: compression of real arrays within an error bound. A thin layer on residuum.h; see there for what a
!> function does, needs and returns. Statuses are integers: 0 (residuum_ok) if all is well, else `residuum_message` says more.
!>
!> Shapes are Fortran's, the fastest dimension first: the archive has them reversed, so that C and
!> Python programs see the same field in their order.
!>
!>     gfortran residuum.f90 simulation.f90 $(pkg-config --libs residuum)
module residuum
  use, intrinsic :: iso_c_binding
  implicit none
  private

  public :: residuum_open, residuum_close, residuum_message, residuum_library_version
  public :: residuum_bound_set, residuum_effort_set, residuum_predictor_set, residuum_threads_set
  public :: residuum_fill_set, residuum_fill_unset, residuum_tile_bytes_set, residuum_verify_set
  public :: residuum_max_bytes, residuum_pack, residuum_unpack, residuum_shape
  public :: residuum_max_bytes_of, residuum_pack_device, residuum_unpack_device, residuum_device_reserve, &
      residuum_device_memory

  integer(c_int32_t), parameter, public :: residuum_ok = 0, residuum_bound_violated = 1, residuum_usage = 2, &
      residuum_input = 3, residuum_corrupt = 4, residuum_unsupported = 5, residuum_io = 6, residuum_device = 7, &
      residuum_buffer_too_small = 64, &
      residuum_internal = 65
  integer(c_int32_t), parameter, public :: residuum_abs = 0, residuum_rel = 1, residuum_pw_rel = 2, residuum_psnr = 3
  integer(c_int32_t), parameter, public :: residuum_fast = 0, residuum_balanced = 1, residuum_best = 2
  integer(c_int32_t), parameter, public :: residuum_predictor_auto = 0, residuum_predictor_none = 1, &
      residuum_predictor_lorenzo = 2, residuum_predictor_interp = 3, residuum_predictor_fitted = 4

  !> Types of the elements, for arrays on a device.
  integer(c_int32_t), parameter, public :: residuum_f32 = 0, residuum_f64 = 1
  integer(c_int32_t), parameter :: type_f32 = residuum_f32, type_f64 = residuum_f64
  integer, parameter :: max_dims = 64

  !> Settings and threads; one for each thread that compresses.
  type, public :: residuum_context
    private
    type(c_ptr) :: handle = c_null_ptr
  end type

  !> As residuum_variable in residuum.h.
  type, bind(c) :: variable_t
    integer(c_size_t) :: struct_bytes
    integer(c_int32_t) :: element_type
    integer(c_int32_t) :: n_dims
    integer(c_int64_t) :: lens(max_dims)
    integer(c_int64_t) :: n_values
    integer(c_int64_t) :: stored_bytes
    integer(c_int32_t) :: bound_mode
    integer(c_int32_t) :: has_fill
    real(c_double) :: bound_value
    real(c_double) :: max_abs_error
    real(c_double) :: fill
  end type

  !> Most bytes of the archive of an array: `status = residuum_max_bytes(context, values, n_bytes)`.
  interface residuum_max_bytes
    module procedure max_bytes_f32, max_bytes_f64
  end interface

  !> Compresses an array of 1 to 5 dimensions: `status = residuum_pack(context, values, archive, n_bytes)`.
  interface residuum_pack
    module procedure pack_f32, pack_f64
  end interface

  !> Restores an array: `status = residuum_unpack(context, archive, n_bytes, values)`.
  interface residuum_unpack
    module procedure unpack_f32, unpack_f64
  end interface

  interface
    integer(c_int32_t) function c_context_new(context) bind(c, name='residuum_context_new')
      import :: c_int32_t, c_ptr
      type(c_ptr), intent(out) :: context
    end function
    subroutine c_context_free(context) bind(c, name='residuum_context_free')
      import :: c_ptr
      type(c_ptr), value :: context
    end subroutine
    type(c_ptr) function c_last_error(context) bind(c, name='residuum_last_error')
      import :: c_ptr
      type(c_ptr), value :: context
    end function
    type(c_ptr) function c_version() bind(c, name='residuum_version')
      import :: c_ptr
    end function
    integer(c_int32_t) function c_set_bound(context, mode, bound) bind(c, name='residuum_set_bound')
      import :: c_int32_t, c_ptr, c_double
      type(c_ptr), value :: context
      integer(c_int32_t), value :: mode
      real(c_double), value :: bound
    end function
    integer(c_int32_t) function c_set_effort(context, effort) bind(c, name='residuum_set_effort')
      import :: c_int32_t, c_ptr
      type(c_ptr), value :: context
      integer(c_int32_t), value :: effort
    end function
    integer(c_int32_t) function c_set_predictor(context, predictor) bind(c, name='residuum_set_predictor')
      import :: c_int32_t, c_ptr
      type(c_ptr), value :: context
      integer(c_int32_t), value :: predictor
    end function
    integer(c_int32_t) function c_set_fill(context, fill) bind(c, name='residuum_set_fill')
      import :: c_int32_t, c_ptr, c_double
      type(c_ptr), value :: context
      real(c_double), value :: fill
    end function
    integer(c_int32_t) function c_unset_fill(context) bind(c, name='residuum_unset_fill')
      import :: c_int32_t, c_ptr
      type(c_ptr), value :: context
    end function
    integer(c_int32_t) function c_set_tile_bytes(context, tile_bytes) bind(c, name='residuum_set_tile_bytes')
      import :: c_int32_t, c_int64_t, c_ptr
      type(c_ptr), value :: context
      integer(c_int64_t), value :: tile_bytes
    end function
    integer(c_int32_t) function c_set_threads(context, n_threads) bind(c, name='residuum_set_threads')
      import :: c_int32_t, c_ptr
      type(c_ptr), value :: context
      integer(c_int32_t), value :: n_threads
    end function
    integer(c_int32_t) function c_set_verify(context, verify) bind(c, name='residuum_set_verify')
      import :: c_int32_t, c_ptr
      type(c_ptr), value :: context
      integer(c_int32_t), value :: verify
    end function
    integer(c_int32_t) function c_max_archive_bytes(context, element_type, n_dims, lens, n_bytes) &
        bind(c, name='residuum_max_archive_bytes')
      import :: c_int32_t, c_ptr, c_size_t
      type(c_ptr), value :: context
      integer(c_int32_t), value :: element_type
      integer(c_size_t), value :: n_dims
      integer(c_size_t), intent(in) :: lens(*)
      integer(c_size_t), intent(out) :: n_bytes
    end function
    integer(c_int32_t) function c_compress(context, element_type, values, n_dims, lens, archive, capacity, n_bytes) &
        bind(c, name='residuum_compress')
      import :: c_int32_t, c_ptr, c_size_t, c_int8_t
      type(c_ptr), value :: context
      integer(c_int32_t), value :: element_type
      type(c_ptr), value :: values
      integer(c_size_t), value :: n_dims
      integer(c_size_t), intent(in) :: lens(*)
      integer(c_int8_t), intent(inout) :: archive(*)
      integer(c_size_t), value :: capacity
      integer(c_size_t), intent(out) :: n_bytes
    end function
    integer(c_int32_t) function c_decompress(context, archive, n_bytes, variable, element_type, values, capacity) &
        bind(c, name='residuum_decompress')
      import :: c_int32_t, c_ptr, c_size_t, c_int8_t
      type(c_ptr), value :: context
      integer(c_int8_t), intent(in) :: archive(*)
      integer(c_size_t), value :: n_bytes
      integer(c_size_t), value :: variable
      integer(c_int32_t), value :: element_type
      type(c_ptr), value :: values
      integer(c_size_t), value :: capacity
    end function
    integer(c_int32_t) function c_compress_device(context, element_type, values, n_dims, lens, archive, capacity, n_bytes, &
        stream) bind(c, name='residuum_compress_device')
      import :: c_int32_t, c_ptr, c_size_t
      type(c_ptr), value :: context
      integer(c_int32_t), value :: element_type
      type(c_ptr), value :: values
      integer(c_size_t), value :: n_dims
      integer(c_size_t), intent(in) :: lens(*)
      type(c_ptr), value :: archive
      integer(c_size_t), value :: capacity
      integer(c_size_t), intent(out) :: n_bytes
      type(c_ptr), value :: stream
    end function
    integer(c_int32_t) function c_decompress_device(context, archive, n_bytes, variable, element_type, values, capacity, &
        stream) bind(c, name='residuum_decompress_device')
      import :: c_int32_t, c_ptr, c_size_t
      type(c_ptr), value :: context
      type(c_ptr), value :: archive
      integer(c_size_t), value :: n_bytes
      integer(c_size_t), value :: variable
      integer(c_int32_t), value :: element_type
      type(c_ptr), value :: values
      integer(c_size_t), value :: capacity
      type(c_ptr), value :: stream
    end function
    integer(c_int32_t) function c_reserve_device(context, device, element_type, n_dims, lens) &
        bind(c, name='residuum_reserve_device')
      import :: c_int32_t, c_ptr, c_size_t
      type(c_ptr), value :: context
      integer(c_int32_t), value :: device
      integer(c_int32_t), value :: element_type
      integer(c_size_t), value :: n_dims
      integer(c_size_t), intent(in) :: lens(*)
    end function
    integer(c_int32_t) function c_device_workspace_bytes(context, n_bytes) bind(c, name='residuum_device_workspace_bytes')
      import :: c_int32_t, c_ptr, c_size_t
      type(c_ptr), value :: context
      integer(c_size_t), intent(out) :: n_bytes
    end function
    integer(c_int32_t) function c_inspect(context, archive, n_bytes, variable, described) bind(c, name='residuum_inspect')
      import :: c_int32_t, c_ptr, c_size_t, c_int8_t, variable_t
      type(c_ptr), value :: context
      integer(c_int8_t), intent(in) :: archive(*)
      integer(c_size_t), value :: n_bytes
      integer(c_size_t), value :: variable
      type(variable_t), intent(inout) :: described
    end function
    integer(c_size_t) function c_strlen(text) bind(c, name='strlen')
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function
  end interface

contains

  integer(c_int32_t) function residuum_open(context) result(status)
    type(residuum_context), intent(out) :: context
    status = c_context_new(context%handle)
  end function

  subroutine residuum_close(context)
    type(residuum_context), intent(inout) :: context
    call c_context_free(context%handle)
    context%handle = c_null_ptr
  end subroutine

  !> What went wrong in the last call with this context; empty if nothing did.
  function residuum_message(context) result(message)
    type(residuum_context), intent(in) :: context
    character(:), allocatable :: message
    message = text_of(c_last_error(context%handle))
  end function

  function residuum_library_version() result(version)
    character(:), allocatable :: version
    version = text_of(c_version())
  end function

  integer(c_int32_t) function residuum_bound_set(context, mode, bound) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: mode
    real(c_double), intent(in) :: bound
    status = c_set_bound(context%handle, mode, bound)
  end function

  integer(c_int32_t) function residuum_effort_set(context, effort) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: effort
    status = c_set_effort(context%handle, effort)
  end function

  integer(c_int32_t) function residuum_predictor_set(context, predictor) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: predictor
    status = c_set_predictor(context%handle, predictor)
  end function

  integer(c_int32_t) function residuum_fill_set(context, fill) result(status)
    type(residuum_context), intent(in) :: context
    real(c_double), intent(in) :: fill
    status = c_set_fill(context%handle, fill)
  end function

  integer(c_int32_t) function residuum_fill_unset(context) result(status)
    type(residuum_context), intent(in) :: context
    status = c_unset_fill(context%handle)
  end function

  integer(c_int32_t) function residuum_tile_bytes_set(context, tile_bytes) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int64_t), intent(in) :: tile_bytes
    status = c_set_tile_bytes(context%handle, tile_bytes)
  end function

  integer(c_int32_t) function residuum_threads_set(context, n_threads) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: n_threads
    status = c_set_threads(context%handle, n_threads)
  end function

  integer(c_int32_t) function residuum_verify_set(context, verify) result(status)
    type(residuum_context), intent(in) :: context
    logical, intent(in) :: verify
    status = c_set_verify(context%handle, merge(1_c_int32_t, 0_c_int32_t, verify))
  end function

  ! Arrays of any rank pass as `values(..)`; one that is not contiguous is copied by the compiler.

  integer(c_int32_t) function max_bytes_f32(context, values, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    real(c_float), intent(in) :: values(..)
    integer(c_size_t), intent(out) :: n_bytes
    status = c_max_archive_bytes(context%handle, type_f32, int(rank(values), c_size_t), reversed(shape(values)), n_bytes)
  end function

  integer(c_int32_t) function pack_f32(context, values, archive, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    real(c_float), intent(in), target, contiguous :: values(..)
    integer(c_int8_t), intent(inout), contiguous :: archive(:)
    integer(c_size_t), intent(out) :: n_bytes
    status = c_compress(context%handle, type_f32, c_loc(values), int(rank(values), c_size_t), reversed(shape(values)), &
        archive, size(archive, kind=c_size_t), n_bytes)
  end function

  integer(c_int32_t) function unpack_f32(context, archive, n_bytes, values) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int8_t), intent(in), contiguous :: archive(:)
    integer(c_size_t), intent(in) :: n_bytes
    real(c_float), intent(inout), target, contiguous :: values(..)
    status = c_decompress(context%handle, archive, n_bytes, 0_c_size_t, type_f32, c_loc(values), &
        size(values, kind=c_size_t))
  end function

  integer(c_int32_t) function max_bytes_f64(context, values, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    real(c_double), intent(in) :: values(..)
    integer(c_size_t), intent(out) :: n_bytes
    status = c_max_archive_bytes(context%handle, type_f64, int(rank(values), c_size_t), reversed(shape(values)), n_bytes)
  end function

  integer(c_int32_t) function pack_f64(context, values, archive, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    real(c_double), intent(in), target, contiguous :: values(..)
    integer(c_int8_t), intent(inout), contiguous :: archive(:)
    integer(c_size_t), intent(out) :: n_bytes
    status = c_compress(context%handle, type_f64, c_loc(values), int(rank(values), c_size_t), reversed(shape(values)), &
        archive, size(archive, kind=c_size_t), n_bytes)
  end function

  integer(c_int32_t) function unpack_f64(context, archive, n_bytes, values) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int8_t), intent(in), contiguous :: archive(:)
    integer(c_size_t), intent(in) :: n_bytes
    real(c_double), intent(inout), target, contiguous :: values(..)
    status = c_decompress(context%handle, archive, n_bytes, 0_c_size_t, type_f64, c_loc(values), &
        size(values, kind=c_size_t))
  end function

  ! Arrays on a device are addresses with a type and a shape, in Fortran's order. OpenACC: `c_loc` inside `host_data use_device`;
  ! OpenMP: inside `target data use_device_addr`; CUDA Fortran: `transfer(c_devloc(values), c_null_ptr)`. More in residuum.h.

  !> Most bytes of the archive of an array of this type and shape.
  integer(c_int32_t) function residuum_max_bytes_of(context, element_type, lens, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: element_type
    integer, intent(in) :: lens(:)
    integer(c_size_t), intent(out) :: n_bytes
    status = c_max_archive_bytes(context%handle, element_type, size(lens, kind=c_size_t), reversed(lens), n_bytes)
  end function

  !> Compresses an array on a device into `archive`, an address of the host or of the device with room for `capacity` bytes,
  !> behind what was launched on `stream` (the default stream if it is left out).
  integer(c_int32_t) function residuum_pack_device(context, values, element_type, lens, archive, capacity, n_bytes, stream) &
      result(status)
    type(residuum_context), intent(in) :: context
    type(c_ptr), intent(in) :: values
    integer(c_int32_t), intent(in) :: element_type
    integer, intent(in) :: lens(:)
    type(c_ptr), intent(in) :: archive
    integer(c_size_t), intent(in) :: capacity
    integer(c_size_t), intent(out) :: n_bytes
    type(c_ptr), intent(in), optional :: stream
    status = c_compress_device(context%handle, element_type, values, size(lens, kind=c_size_t), reversed(lens), archive, &
        capacity, n_bytes, stream_or_default(stream))
  end function

  !> Restores an array on a device, which has room for `n_values` values, from an archive of the host or the device.
  integer(c_int32_t) function residuum_unpack_device(context, archive, n_bytes, values, element_type, n_values, stream) &
      result(status)
    type(residuum_context), intent(in) :: context
    type(c_ptr), intent(in) :: archive
    integer(c_size_t), intent(in) :: n_bytes
    type(c_ptr), intent(in) :: values
    integer(c_int32_t), intent(in) :: element_type
    integer(c_size_t), intent(in) :: n_values
    type(c_ptr), intent(in), optional :: stream
    status = c_decompress_device(context%handle, archive, n_bytes, 0_c_size_t, element_type, values, n_values, &
        stream_or_default(stream))
  end function

  !> Loads the kernels and takes working memory on a device for arrays of this type and shape.
  integer(c_int32_t) function residuum_device_reserve(context, device, element_type, lens) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int32_t), intent(in) :: device
    integer(c_int32_t), intent(in) :: element_type
    integer, intent(in) :: lens(:)
    status = c_reserve_device(context%handle, device, element_type, size(lens, kind=c_size_t), reversed(lens))
  end function

  !> Bytes of working memory on devices.
  integer(c_int32_t) function residuum_device_memory(context, n_bytes) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_size_t), intent(out) :: n_bytes
    status = c_device_workspace_bytes(context%handle, n_bytes)
  end function

  function stream_or_default(stream) result(handle)
    type(c_ptr), intent(in), optional :: stream
    type(c_ptr) :: handle
    handle = c_null_ptr
    if (present(stream)) handle = stream
  end function

  !> Shape of the array in an archive, in Fortran's order, and the largest error that its bound allows.
  integer(c_int32_t) function residuum_shape(context, archive, n_bytes, lens, max_abs_error) result(status)
    type(residuum_context), intent(in) :: context
    integer(c_int8_t), intent(in), contiguous :: archive(:)
    integer(c_size_t), intent(in) :: n_bytes
    integer(c_int64_t), allocatable, intent(out) :: lens(:)
    real(c_double), intent(out) :: max_abs_error
    type(variable_t) :: described
    described%struct_bytes = c_sizeof(described)
    described%n_dims = 0
    described%max_abs_error = 0
    status = c_inspect(context%handle, archive, n_bytes, 0_c_size_t, described)
    lens = described%lens(described%n_dims:1:-1)
    max_abs_error = described%max_abs_error
  end function

  pure function reversed(lens)
    integer, intent(in) :: lens(:)
    integer(c_size_t) :: reversed(size(lens))
    reversed = int(lens(size(lens):1:-1), c_size_t)
  end function

  function text_of(pointer) result(text)
    type(c_ptr), intent(in) :: pointer
    character(:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: i
    call c_f_pointer(pointer, letters, [c_strlen(pointer)])
    allocate (character(size(letters)) :: text)
    do i = 1, size(letters)
      text(i:i) = letters(i)
    end do
  end function
end module
