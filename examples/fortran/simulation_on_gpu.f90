!> The simulation of examples/c/simulation_on_gpu.c: the field is on a GPU, each step compresses it where it is.
!> The driver is called through iso_c_binding; OpenACC, OpenMP and CUDA Fortran have addresses of their own.
program simulation_on_gpu
  use, intrinsic :: iso_c_binding
  use residuum
  implicit none

  interface
    integer(c_int) function cuInit(flags) bind(c, name='cuInit')
      import :: c_int
      integer(c_int), value :: flags
    end function
    integer(c_int) function cuDeviceGet(device, ordinal) bind(c, name='cuDeviceGet')
      import :: c_int
      integer(c_int), intent(out) :: device
      integer(c_int), value :: ordinal
    end function
    integer(c_int) function cuDevicePrimaryCtxRetain(cuda, device) bind(c, name='cuDevicePrimaryCtxRetain')
      import :: c_int, c_ptr
      type(c_ptr), intent(out) :: cuda
      integer(c_int), value :: device
    end function
    integer(c_int) function cuCtxSetCurrent(cuda) bind(c, name='cuCtxSetCurrent')
      import :: c_int, c_ptr
      type(c_ptr), value :: cuda
    end function
    integer(c_int) function cuMemAlloc(address, bytes) bind(c, name='cuMemAlloc_v2')
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), intent(out) :: address
      integer(c_size_t), value :: bytes
    end function
    integer(c_int) function cuMemFree(address) bind(c, name='cuMemFree_v2')
      import :: c_int, c_ptr
      type(c_ptr), value :: address
    end function
    integer(c_int) function cuMemcpyHtoD(to, from, bytes) bind(c, name='cuMemcpyHtoD_v2')
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: to, from
      integer(c_size_t), value :: bytes
    end function
    integer(c_int) function cuMemcpyDtoH(to, from, bytes) bind(c, name='cuMemcpyDtoH_v2')
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: to, from
      integer(c_size_t), value :: bytes
    end function
  end interface

  integer, parameter :: n_columns = 120, n_rows = 60, n_steps = 8, read_back = 5
  integer, parameter :: lens(2) = [n_columns, n_rows]
  real(c_double), parameter :: bound_kelvin = 0.01d0

  type(residuum_context) :: context
  type(c_ptr) :: cuda, field, kept
  real(c_float), target :: values(n_columns, n_rows), kept_values(n_columns, n_rows), restored(n_columns, n_rows)
  integer(c_int8_t), allocatable, target :: buffer(:)
  integer(c_size_t) :: capacity, n_bytes, kept_bytes, total, workspace
  integer(c_size_t), parameter :: field_bytes = 4_c_size_t * n_columns * n_rows
  integer(c_int) :: device
  real(c_double) :: largest_error
  integer :: s

  call check_cuda(cuInit(0_c_int))
  call check_cuda(cuDeviceGet(device, 0_c_int))
  call check_cuda(cuDevicePrimaryCtxRetain(cuda, device))
  call check_cuda(cuCtxSetCurrent(cuda))
  call check_cuda(cuMemAlloc(field, field_bytes))

  call check(residuum_open(context))
  call check(residuum_bound_set(context, residuum_abs, bound_kelvin))
  call check(residuum_effort_set(context, residuum_fast))
  call check(residuum_max_bytes_of(context, residuum_f32, lens, capacity))
  call check(residuum_device_reserve(context, 0_c_int32_t, residuum_f32, lens))
  call check(residuum_device_memory(context, workspace))
  allocate (buffer(capacity))
  call check_cuda(cuMemAlloc(kept, capacity))

  total = 0
  do s = 1, n_steps
    call step(s)
    ! To the host.
    call check(residuum_pack_device(context, field, residuum_f32, lens, c_loc(buffer), capacity, n_bytes))
    total = total + n_bytes
    if (s == read_back) then
      ! To memory of the device.
      kept_values = values
      call check(residuum_pack_device(context, field, residuum_f32, lens, kept, capacity, kept_bytes))
    end if
  end do
  call check(residuum_unpack_device(context, kept, kept_bytes, field, residuum_f32, size(values, kind=c_size_t)))
  call check_cuda(cuMemcpyDtoH(c_loc(restored), field, field_bytes))
  largest_error = maxval(abs(real(restored, c_double) - real(kept_values, c_double)))
  print '(i0, a, i0, a, i0, a, i0, a)', n_steps, ' steps, ', n_steps * size(values) * 4, ' bytes of values in ', total, ', ', &
      workspace, ' bytes of working memory'
  print '(a, i0, a, es10.3, a, es10.3, a)', 'step ', read_back, ': largest error ', largest_error, ' K, bound ', bound_kelvin, ' K'
  call residuum_close(context)
  call check_cuda(cuMemFree(kept))
  call check_cuda(cuMemFree(field))
  if (.not. largest_error <= bound_kelvin) error stop 'a value left its bound'

contains

  !> A warm spot, carried around by a wind. A model would launch its kernels here; this one computes on the host and copies.
  subroutine step(s)
    integer, intent(in) :: s
    integer :: i, j
    do j = 1, n_rows
      do i = 1, n_columns
        values(i, j) = real(280 - 0.2 * abs(j - n_rows / 2) &
            + 15 * exp(-((modulo(i - 3 * s, n_columns) - n_columns / 2) / 10.0)**2 - ((j - n_rows / 2) / 6.0)**2), c_float)
      end do
    end do
    call check_cuda(cuMemcpyHtoD(field, c_loc(values), field_bytes))
  end subroutine

  subroutine check(status)
    integer(c_int32_t), intent(in) :: status
    if (status /= residuum_ok) then
      print '(a)', residuum_message(context)
      error stop 1
    end if
  end subroutine

  subroutine check_cuda(result)
    integer(c_int), intent(in) :: result
    if (result /= 0) error stop 'the driver refused'
  end subroutine
end program
